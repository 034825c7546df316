"""Starting a run on several hosts: scripts, and what each host does first."""
