"""The table of tabular data sets: columns, directions, split, origin, and the benchmark's rules."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np

from monojax.data.blog_feedback import read_blog, read_blog_benchmark
from monojax.data.csv_table import Column, Layout, RawTable, read_table, split_column, split_from
from monojax.data.scaling import Scaling, identity, min_max, standardise

Reader = Callable[[bytes, str], RawTable]
Task = Literal["regression", "classification"]


@dataclass(frozen=True)
class Benchmark:
    """How the literature prepared a set.

    Attributes:
      read: the reader, quirks included.
      scale: scaling of the features.
      fit_on: the rows the scalings are fitted on: the training part before validation rows are
        taken from it, or all rows, test rows too.
      scale_target: scaling of the target, in the same way fitted.
    """

    read: Reader
    scale: Callable[[np.ndarray], Scaling]
    fit_on: Literal["train", "all"]
    scale_target: Callable[[np.ndarray], Scaling] = identity


@dataclass(frozen=True)
class SetSpec:
    """One data set.

    Attributes:
      name: what `load_tabular` calls it.
      file: file name, in ``DIR/tabular`` or inside the package.
      sha256: digest of that file.
      embedded: True if the file is part of the package.
      read: the reader of the clean protocol.
      task: regression, or classification with targets 0 and 1.
      target: name of the target.
      target_unit: its raw unit.
      benchmark: the literature's preparation, or None if there is none for this file.
      no_benchmark: why there is none.
      drop_constant: remove columns that are constant on the training rows (clean protocol).
      source: where the file comes from, and how it was made.
      licence: as far as it is known.
      attribution: whom to cite.
      caution: what to know before comparing numbers.
    """

    name: str
    file: str
    sha256: str
    embedded: bool
    read: Reader
    task: Task
    target: str
    target_unit: str
    source: str
    licence: str
    attribution: str
    benchmark: Benchmark | None = None
    no_benchmark: str = ""
    drop_constant: bool = False
    caution: str = ""


HEART_COLUMNS = (
    Column("age", "years"),
    Column("sex"),
    Column("cp"),
    Column("trestbps", "mm Hg", +1),
    Column("chol", "mg/dl", +1),
    Column("fbs"),
    Column("restecg"),
    Column("thalach", "beats/min"),
    Column("exang"),
    Column("oldpeak"),
    Column("slope"),
    Column("ca"),
    Column("thal"),
)

READ_AUTO_MPG = partial(
    read_table,
    layout=Layout(
        columns=(
            Column("cylinders"),
            Column("displacement", "cu in", -1),
            Column("horsepower", "hp", -1),
            Column("weight", "lb", -1),
            Column("acceleration", "s"),
            Column("model_year", "year - 1900"),
            Column("origin"),
        ),
        target=Column("mpg", "mpg"),
        split=split_column("dropped_missing_horsepower"),
    ),
)

READ_HEART_CLEVELAND = partial(
    read_table,
    layout=Layout(
        columns=HEART_COLUMNS,
        # num counts narrowed vessels, 0..4; disease is num > 0.
        target=Column("num", codes={"0": 0, "1": 1, "2": 1, "3": 1, "4": 1}),
        drop_incomplete=True,
    ),
)

READ_HEART = partial(
    read_table,
    layout=Layout(columns=HEART_COLUMNS, target=Column("target"), split=split_column()),
)

READ_COMPAS = partial(
    read_table,
    layout=Layout(
        columns=(
            Column("priors_count", "", +1),
            Column("juv_fel_count", "", +1),
            Column("juv_misd_count", "", +1),
            Column("juv_other_count", "", +1),
            Column("age", "years"),
            Column(
                "race",
                levels=(
                    "African-American",
                    "Hispanic",
                    "Asian",
                    "Caucasian",
                    "Native American",
                    "Other",
                ),
            ),
            Column("sex", levels=("Male", "Female")),
        ),
        target=Column("two_year_recid"),
        split=split_column(),
    ),
)

# "Never" is empty or 0 in the file; 240 months lie beyond the longest time in it (129).
NEVER = {"": 240.0, "0": 240.0}
GRADES = {grade: 7.0 - k for k, grade in enumerate("ABCDEFG")}  # A best

READ_LENDING_CLUB = partial(
    read_table,
    layout=Layout(
        columns=(
            Column("pub_rec_bankruptcies", "", +1),
            Column("dti", "%", +1),
            Column("grade", "A=7 ... G=1", -1, codes=GRADES),
            Column("emp_length", "years, 10 = 10 or more", -1),
            Column("annual_inc", "USD", -1),
            Column("loan_amnt", "USD"),
            Column("funded_amnt", "USD"),
            Column("funded_amnt_inv", "USD"),
            Column("term_months", "months"),
            Column("int_rate", "share per year"),
            Column("installment", "USD per month"),
            Column("delinq_2yrs"),
            Column("inq_last_6mths"),
            Column("mths_since_last_delinq", "months", codes=NEVER),
            Column("mths_since_last_record", "months", codes=NEVER),
            Column("open_acc"),
            Column("pub_rec"),
            Column("revol_bal", "USD"),
            Column("revol_util", "share"),
            Column("total_acc"),
            Column("acc_now_delinq"),
            Column("delinq_amnt", "USD"),
            Column("tax_liens"),
            Column("credit_history_months", "months"),
            Column("meets_credit_policy"),
            Column("home_ownership", levels=("MORTGAGE", "NONE", "OTHER", "OWN", "RENT")),
            Column("verification_status", levels=("Not Verified", "Source Verified", "Verified")),
            Column(
                "purpose",
                levels=(
                    "car",
                    "credit_card",
                    "debt_consolidation",
                    "educational",
                    "home_improvement",
                    "house",
                    "major_purchase",
                    "medical",
                    "moving",
                    "other",
                    "renewable_energy",
                    "small_business",
                    "vacation",
                    "wedding",
                ),
            ),
        ),
        target=Column("default"),
        split=split_from("issue_month", "2011-09"),
        drop_incomplete=True,
    ),
)

UCI = "CC BY 4.0 (UCI Machine Learning Repository)"

SPECS = (
    SetSpec(
        name="auto_mpg",
        file="auto_mpg.csv",
        sha256="93ff4f0703fce70ac885c2c0b530688df02c26b9e47c008dbbb71e4bcc4bc07c",
        embedded=True,
        read=READ_AUTO_MPG,
        task="regression",
        target="mpg",
        target_unit="mpg",
        benchmark=Benchmark(READ_AUTO_MPG, standardise, "train"),
        source="auto-mpg.csv of github.com/niklasnolte/monotonic_tests (UCI Auto MPG), with the "
        "split of the benchmark files of airtai/monotonic-nn as a column `split`.",
        licence=UCI,
        attribution="Quinlan, R. (1993). Auto MPG. UCI. https://doi.org/10.24432/C5859H",
    ),
    SetSpec(
        name="heart_cleveland",
        file="heart_cleveland_original.csv",
        sha256="c1a68b0099f13630967e05a357aa7f856bf0b784124f9ae4a01612d5378617a9",
        embedded=True,
        read=READ_HEART_CLEVELAND,
        task="classification",
        target="num > 0",
        target_unit="",
        no_benchmark="the published numbers use the variant loaded as 'heart'",
        source="processed.cleveland.data of UCI Heart Disease, with a header line.",
        licence=UCI,
        attribution="Janosi, A., Steinbrunn, W., Pfisterer, M., Detrano, R. (1989). Heart "
        "Disease. UCI. https://doi.org/10.24432/C52P4X",
        caution="Not comparable with numbers on 'heart', whose target is another one.",
    ),
    SetSpec(
        name="heart",
        file="heart.csv",
        sha256="83b5e0b82bd0bfb52f742dd5b2bc24b338eb5b03940f25325a8935500cb39d9f",
        embedded=False,
        read=READ_HEART,
        task="classification",
        target="target",
        target_unit="",
        benchmark=Benchmark(READ_HEART, standardise, "train"),
        source="heart_train.csv and heart_test.csv of github.com/niklasnolte/monotonic_tests, "
        "joined in this order, with a last column `split` (train, test).",
        licence="not stated",
        attribution="A variant of UCI Heart Disease (Janosi et al. 1989), CC BY 4.0 at UCI.",
        caution="The target is 1 only where the original diagnosis num is 2 or more (83 "
        "positives), not num > 0 (139), and six rows differ in some value: numbers on it are "
        "comparable with each other only. 61 test rows mean steps of 1.6 points.",
    ),
    SetSpec(
        name="compas",
        file="compas.csv",
        sha256="b601cbeff24c645391c8fd848f580e83f3f56f8504d7faaf267a2083e041c472",
        embedded=False,
        read=READ_COMPAS,
        task="classification",
        target="two_year_recid",
        target_unit="",
        benchmark=Benchmark(READ_COMPAS, min_max, "all"),
        source="compas_scores_two_years.csv of github.com/niklasnolte/monotonic_tests (commit "
        "7d795cc; originally propublica/compas-analysis), ProPublica's row filter, the "
        "benchmark's columns and its shuffled order (seed 78712), with a last column `split`.",
        licence="not stated (public court records)",
        attribution="ProPublica, compas-analysis (2016).",
        caution="Many rows are identical in all features: accuracies near 0.69 are about the "
        "best published. Data about people; for research on methods only.",
    ),
    SetSpec(
        name="blog_feedback",
        file="blog_feedback.npz",
        sha256="8efd94b65710fa96aa8f2c20001f8807624a7d0b2182b5ff6e2fcfe0c06baefb",
        embedded=False,
        read=read_blog,
        task="regression",
        target="comments in the next 24 hours",
        target_unit="comments",
        benchmark=Benchmark(read_blog_benchmark, min_max, "all", min_max),
        drop_constant=True,
        source="BlogFeedback.zip of the UCI repository (sha256 1ba74e5ad920f7cd037502b2968581cc6"
        "95146a226a73eff52fe8ad875ed4bcf), as arrays X_train_T, y_train, X_test_T, y_test, "
        "test_date in one compressed npz file (float32 inputs transposed, int32 others).",
        licence=UCI,
        attribution="Buza, K. (2014). BlogFeedback. UCI. https://doi.org/10.24432/C58S3F",
        caution="Training posts are observed at several times, so random validation rows are "
        "not independent of the training rows; the test part is later in time.",
    ),
    SetSpec(
        name="lending_club",
        file="lending_club_2007_2011.csv.gz",
        sha256="78aea0c2baa9070c33187b7f85af5b313d7c77e4cda6909faeed4299a33ecc97",
        embedded=False,
        read=READ_LENDING_CLUB,
        task="classification",
        target="default",
        target_unit="",
        no_benchmark="it only stands in for LoanDefaulter (488,909 rows x 28), which is not the "
        "same file",
        source="R data files 2007-2011 of github.com/kuhnrl30/LendingClubData (commit b9203b8), "
        "joined; ids, free text and everything after origination dropped.",
        licence="MIT (the package); the data are Lending Club's public loan statistics",
        attribution="LendingClub loan statistics, through kuhnrl30/LendingClubData.",
        caution="Numbers on it must not be compared with published LoanDefaulter accuracies. "
        "The default rate is flat in emp_length.",
    ),
)

BY_NAME = {spec.name: spec for spec in SPECS}
