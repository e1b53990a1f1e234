"""One table across data sets, from results whose answers are known."""

from __future__ import annotations

import math
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from support.comparison import CONFIGS
from support.records import table

from paddleseg_autoloss.cli.main import parse_args
from paddleseg_autoloss.comparison.across import Across, DataSet, read_across
from paddleseg_autoloss.comparison.across_report import (
    _describe_test,
    findings,
    mean_table,
    points_table,
    rank_table,
    say_what_it_can_show,
)
from paddleseg_autoloss.comparison.command import _FOR_RUNS, compare_from
from paddleseg_autoloss.comparison.results import ResultTable
from paddleseg_autoloss.comparison.statistics import average, paired
from paddleseg_autoloss.errors import ConfigError, DataError

#: Deviations of three seeds from their mean.
NOISE = np.array([-0.01, 0.0, 0.01])


def write_results(folder, means, noise=NOISE, **columns):
    """Write ``results.csv``; ``means`` has for each variant its test mIoU, or a row by rate.

    Each variant has the deviations in an order of its own, so that the differences have a spread.
    """
    rows = []
    for i, (name, by_rate) in enumerate(means.items()):
        by_rate = by_rate if isinstance(by_rate, dict) else {0.1: (by_rate, by_rate)}
        for rate, (validation, test) in by_rate.items():
            for seed, deviation in enumerate(np.roll(noise, i)):
                rows.append(
                    {
                        "variant": name, "learning_rate": rate, "seed": seed, "status": "done",
                        "validation_mIoU": validation + deviation, "test_mIoU": test + deviation,
                        "collapsed": False, "weights": "", "error": "",
                    }
                )  # fmt: skip
    folder.mkdir()
    frame = pd.DataFrame(rows).assign(**columns)
    frame.to_csv(folder / "results.csv", index=False)
    return str(folder)


#: AutoWeightedLoss is best on every data set, Sum worst; one better learning rate counts.
FOUR = [
    {"base": 0.5, "Auto": 0.6, "Sum": 0.4},
    {"base": 0.7, "Auto": {0.1: (0.1, 0.1), 0.2: (0.9, 0.72)}, "Sum": 0.6},
    {"base": 0.3, "Auto": 0.31, "Sum": 0.29},
    {"base": 0.8, "Auto": 0.9, "Sum": 0.7},
]


@pytest.fixture
def four(tmp_path):
    return [write_results(tmp_path / f"set{i}", means) for i, means in enumerate(FOUR)]


class TestRanks:
    def test_known_answer(self, four):
        across = read_across(four, None)
        assert across.baseline == "base"
        assert across.ranks.tolist() == [[2, 1, 3]] * 4
        assert (across.test.chi_square, across.test.f) == (pytest.approx(8), math.inf)
        assert across.test.p == pytest.approx(1 / 216) == pytest.approx(across.test.least_p)
        pair = across.pairs["Auto"]
        assert (pair.rank, pair.distance, pair.better) == (1, 1, 4)
        # Of 6 rankings a data set has 2, 1, 1 and 2 with a distance of -1, 2, -2 and 1.
        one = {-2: 1 / 6, -1: 1 / 3, 1: 1 / 3, 2: 1 / 6}
        expected = sum(
            one[a] * one[b] * one[c] * one[d]
            for a in one for b in one for c in one for d in one if abs(a + b + c + d) >= 4
        )  # fmt: skip
        assert pair.p == pytest.approx(expected)
        assert pair.p_holm == pytest.approx(2 * expected)
        assert pair.points.mean == pytest.approx(np.mean([0.1, 0.02, 0.01, 0.1]))
        assert pair.p_alone == pytest.approx(2 / 2**4)
        assert pair.p_alone_holm == pytest.approx(2 * 2 / 2**4)
        assert pair.here.mean == pytest.approx(pair.points.mean)
        shown = rank_table(across).set_index("variant")
        assert list(shown.index) == ["Auto", "base", "Sum"]
        assert shown.loc["Auto", ["mean rank", "finding", "ahead on"]].tolist() == [
            "1.00", "not seen", "4 of 4",
        ]  # fmt: skip

    def test_many_data_sets_show_what_four_cannot(self, tmp_path):
        folders = [
            write_results(
                tmp_path / f"s{i}", {"base": 0.5, "Auto": 0.6 + i / 100, "Sum": 0.4 - i / 100}
            )
            for i in range(12)
        ]
        shown = rank_table(read_across(folders, "base")).set_index("variant")
        assert shown.finding.to_dict() == {"Auto": "▲ better", "base": "-", "Sum": "▼ worse"}

    def test_what_four_data_sets_cannot_show_is_said(self, four, tmp_path):
        text = say_what_it_can_show(read_across(four, None))
        assert "Two variants by themselves cannot be told apart by 4 data sets" in text
        assert "p is 2/2^4 = 0.125 times 2 by Holm's correction" in text
        assert "So no variant is called better or worse here; that takes 7 data sets" in text
        assert "at least 1.75 away from that of base" in text
        assert "the largest possible distance is 2" in text
        two = [
            write_results(tmp_path / f"two{i}", {"base": 0.5, "Auto": 0.6 + i / 10})
            for i in range(4)
        ]
        text = say_what_it_can_show(read_across(two, None))
        assert "4 data sets cannot show that a variant differs from base, whatever" in text
        six = [
            write_results(tmp_path / f"six{i}", {"base": 0.5, "Auto": 0.6 + i / 20})
            for i in range(6)
        ]
        text = say_what_it_can_show(read_across(six, None))
        assert "by themselves" not in text
        assert "at least 1.00 away" in text


class TestSeeds:
    def test_intervals_are_those_over_the_seeds_of_each_data_set(self, tmp_path):
        draws = np.random.default_rng(0)
        frames = []
        for i in range(2):
            folder = tmp_path / f"s{i}"
            write_results(folder, {"base": 0.5, "Auto": 0.6})
            frame = pd.read_csv(folder / "results.csv")
            frame["test_mIoU"] = draws.random(len(frame))
            frame.to_csv(folder / "results.csv", index=False)
            frames.append(frame)
        across = read_across([str(tmp_path / "s0"), str(tmp_path / "s1")], None)
        shown, singles = points_table(across), []
        for i, frame in enumerate(frames):
            by_variant = {n: dict(enumerate(r.test_mIoU)) for n, r in frame.groupby("variant")}
            d = paired(by_variant["Auto"], by_variant["base"])
            expected = f"{100 * d.mean:+.2f} [{100 * d.low:.2f}, {100 * d.high:.2f}]"
            assert shown[f"s{i}"].tolist() == [expected]
            singles.append(d)
        assert across.pairs["Auto"].here.low == pytest.approx(average(singles).low)

    def test_more_seeds_are_no_more_data_sets(self, four, tmp_path):
        noise = np.repeat(NOISE, 10)
        many = [write_results(tmp_path / f"m{i}", m, noise) for i, m in enumerate(FOUR)]
        few = read_across(four, None)
        assert {n: p.p for n, p in read_across(many, None).pairs.items()} == {
            n: p.p for n, p in few.pairs.items()
        }

    def test_only_seeds_that_all_variants_have(self, tmp_path):
        folders = []
        for i in range(2):
            folder = tmp_path / f"s{i}"
            write_results(folder, {"base": 0.5, "Auto": 0.6})
            frame = pd.read_csv(folder / "results.csv")
            frame.loc[(frame.variant == "Auto") & (frame.seed == 0), "test_mIoU"] = np.nan
            frame.loc[(frame.variant == "base") & (frame.seed == 2), "status"] = "missing"
            frame.test_mIoU += i / 10
            frame.to_csv(folder / "results.csv", index=False)
            folders.append(str(folder))
        across = read_across(folders, None)
        assert across.seeds == {"s0": [1], "s1": [1]}
        lacking = {0: {"Auto": "undefined"}, 2: {"base": "missing"}}
        assert [across.dropped(data_set) for data_set in across.data_sets] == [lacking] * 2

    def test_what_was_left_out_and_not_tested_is_said(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        folders = [
            write_results(tmp_path / f"s{i}", {"base": 0.5 + i / 99, "Auto": 0.6 + i / 10})
            for i in range(3)
        ]
        change(folders[2], lambda t: t[(t.variant == "base") | (t.seed == 1)])
        compare("--across", *folders)
        report = (tmp_path / "output/across/report.md").read_text()
        assert "s1 (3 seeds), s2 (1 seed)." in report
        assert "Left out with all their runs: seed 0, 2 on s2 (Auto: not planned)." in report
        assert "nothing was tested on average, because s2 has 1 seed" in report
        assert "no difference seen" not in report

    def test_equal_differences_are_not_tested(self, tmp_path):
        folders = [
            write_results(tmp_path / f"s{i}", {"base": 0.5, "Auto": 0.6 + i / 10}, np.zeros(2))
            for i in range(2)
        ]
        across = read_across(folders, None)
        assert points_table(across).iloc[0].tolist() == ["Auto", "+10.00", "+20.00"]
        (text,) = findings(across)
        assert text.endswith("because the spread on s0 is zero, the spread on s1 is zero")


class TestCollapsed:
    """A network that has learned nothing makes no winner."""

    @pytest.fixture
    def twelve(self, tmp_path):
        """Auto is better on every data set, and Sum is worse."""
        means = ({"base": 0.5, "Auto": 0.6 + i / 100, "Sum": 0.4 - i / 100} for i in range(12))
        return [write_results(tmp_path / f"s{i}", m) for i, m in enumerate(means)]

    def shown(self, folders):
        across = read_across(folders, None)
        texts = [_describe_test(across), say_what_it_can_show(across), *findings(across)]
        return rank_table(across).set_index("variant").finding.to_dict(), "\n".join(texts)

    @pytest.mark.parametrize("seeds", [(0, 1, 2), (1,)])
    def test_baseline(self, seeds, twelve):
        collapse(twelve[3], "base", seeds)
        finding, report = self.shown(twelve)
        assert finding == {"Auto": "-", "base": "-", "Sum": "-"}
        assert "No variant was compared with base over the data sets." in report
        assert "Whether the variants differ over these 12 data sets was not tested" in report
        assert report.count("not compared over the data sets (mean rank") == 2
        for word in ("over the data sets seen", "a hint", "better over", "worse over"):
            assert word not in report

    @pytest.mark.parametrize("everywhere", [True, False])
    def test_variant(self, everywhere, twelve):
        """The other one is compared, and Holm's correction counts it alone."""
        for folder in twelve if everywhere else twelve[:1]:
            collapse(folder, "Sum", [0])
        finding, _ = self.shown(twelve)
        assert finding == {"Auto": "▲ better", "base": "-", "Sum": "-"}
        pairs = read_across(twelve, None).pairs
        assert pairs["Auto"].p_holm == pairs["Auto"].p
        assert math.isnan(pairs["Sum"].p)
        assert math.isnan(pairs["Sum"].p_alone_holm)
        assert math.isnan(pairs["Sum"].points.low)

    def test_a_seed_that_does_not_count(self, twelve):
        collapse(twelve[0], "base", [1])
        change(twelve[0], lambda t: t[(t.variant != "Auto") | (t.seed != 1)])
        assert read_across(twelve, None).pairs["Auto"].is_seen


def collapse(folder, name, seeds):
    """Let networks of a variant have learned nothing."""
    change(
        folder, lambda t: t.assign(collapsed=t.collapsed | (t.variant == name) & t.seed.isin(seeds))
    )


class TestFewDataSets:
    """The p value of a pair of mean ranks is too small if the two vary more than the others."""

    def test_far_apart_on_three_data_sets_is_a_hint(self, tmp_path):
        folders = [
            write_results(
                tmp_path / f"s{i}",
                {"base": 0.2 + i / 50, **{f"v{k}": 0.3 + k / 50 + i / 999 for k in range(10)}}
                | {"Auto": 0.7},
            )
            for i in range(3)
        ]
        across = read_across(folders, "base")
        pair = across.pairs["Auto"]
        assert pair.has_hint
        assert not pair.is_seen
        shown = rank_table(across).set_index("variant")
        assert shown.loc["Auto", "finding"] == "hint: better"
        assert "a hint that it is better over the data sets, but no more" in " ".join(
            findings(across)
        )

    def test_false_alarms(self):
        """Five variants are as good as the baseline and vary, and all others do not vary."""
        sets, count, alike = 8, 12, 6
        draws = np.random.default_rng(0)
        names = ["base", *(f"v{i}" for i in range(1, count))]
        hints = alarms = 0
        for _ in range(100):
            means = np.full((sets, count), 0.5) + draws.normal(0, 1e-3, (sets, count))
            means[:, :alike] += draws.normal(0, 0.1, (sets, alike))
            across = Across([as_data_set(i, names, row) for i, row in enumerate(means)], "base")
            pairs = [across.pairs[name] for name in names[1:alike]]
            hints += any(pair.has_hint for pair in pairs)
            alarms += any(pair.is_seen for pair in pairs)
        assert alarms <= 5 < hints


def as_data_set(number, names, means):
    figures = {name: {0: float(mean)} for name, mean in zip(names, means)}
    return DataSet(str(number), figures, {}, dict.fromkeys(names, 0.1), {n: [] for n in names}, "")


#: For each seed the validation mIoU of two mixes, None for a failed run; and the better mix.
HALF_DONE = [
    ([0.9, 0.6, 0.6], [0.91, math.nan, math.nan], "fixed 2"),
    ([0.9, 0.6, 0.6], [0.89, math.nan, math.nan], "fixed 1"),
    ([0.9, 0.6, 0.6], [math.nan, math.nan, 0.7], "fixed 2"),
    ([0.9, math.nan, math.nan], [math.nan, 0.1, 0.2], "fixed 2"),
    ([0.9, 0.6, 0.6], [0.91, None, 0.9], "fixed 1"),
    ([0.9, None, 0.6], [0.91, None, 0.9], "fixed 2"),
]


def test_equal_means_share_a_rank(tmp_path):
    """The mean over seeds has a rounding error."""
    one, other = [0.5, 0.5, 0.59], [0.5, 0.53, 0.56]
    assert np.mean(one) != np.mean(other)
    frame = pd.DataFrame(
        {
            "variant": name, "learning_rate": 0.1, "seed": seed, "status": "done",
            "validation_mIoU": 0.5, "test_mIoU": value,
        }
        for name, values in (("one", one), ("other", other))
        for seed, value in enumerate(values)
    )  # fmt: skip
    for i in range(2):
        frame.assign(validation_mIoU=i / 2).to_csv(tmp_path / f"{i}.csv", index=False)
    across = read_across([str(tmp_path / f"{i}.csv") for i in range(2)], None)
    assert across.ranks.tolist() == [[1.5, 1.5], [1.5, 1.5]]
    assert across.pairs["other"].better == 0
    assert across.pairs["other"].p_alone == 1


class TestBaseline:
    def test_best_of_a_grid_is_chosen_on_validation_images(self, tmp_path):
        first = {"fixed 1:0": {0.1: (0.5, 0.9)}, "fixed 0:1": {0.1: (0.6, 0.5)}, "Auto": 0.7}
        second = {"fixed 1:0": {0.1: (0.8, 0.6)}, "fixed 0:1": {0.1: (0.7, 0.9)}, "Auto": 0.5}
        folders = [write_results(tmp_path / n, m) for n, m in (("a", first), ("b", second))]
        across = read_across(folders, "fixed *")
        assert across.variants == ["best of fixed *", "Auto"]
        assert [d.tuned for d in across.data_sets] == ["fixed 0:1", "fixed 1:0"]
        np.testing.assert_allclose(across.means, [[0.5, 0.7], [0.6, 0.5]])
        assert across.pairs["Auto"].better == 1

    @pytest.mark.parametrize(("one", "other", "best"), HALF_DONE)
    def test_mixes_are_compared_on_the_same_seeds(self, one, other, best):
        """A mix that is done for the easiest seed only is not the best because of that."""
        rows = [
            {
                "variant": name, "learning_rate": 0.1, "seed": seed, "validation_mIoU": figure,
                "status": "failed" if figure is None else "missing" if figure != figure else "done",
            }
            for name, row in {"fixed 1": one, "fixed 2": other, "Auto": [0.7] * 3}.items()
            for seed, figure in enumerate(row)
        ]  # fmt: skip
        frame = pd.DataFrame(rows).astype({"validation_mIoU": float})
        assert ResultTable(frame).best_on_validation(["fixed 1", "fixed 2"]) == best

    def test_a_choice_among_several_needs_validation_images(self, tmp_path):
        """After ``compare --validation 0`` both figures are those of the test images."""
        tested = {"fixed 1": 0.5, "fixed 2": {0.1: (0.6, 0.6)}, "Auto": 0.7}
        held_out = {name: {0.1: (0.5, 0.6)} for name in tested}
        folders = [write_results(tmp_path / n, m) for n, m in (("a", held_out), ("b", tested))]
        with pytest.raises(
            ConfigError, match=r"name of one variant, because b has no .*'fixed \*'"
        ):
            read_across(folders, "fixed *")
        assert read_across(folders, "fixed 1").baseline == "fixed 1"
        assert read_across(folders, "Au*").data_sets[1].tuned == "Auto"

    def test_learning_rate_is_chosen_on_validation_images(self, four):
        shown = mean_table(read_across(four, None)).set_index("variant")
        assert shown.loc["Auto", "set1"] == "0.7200 ± 0.0100 (0.2)"


class TestNames:
    def test_two_files_of_a_folder(self, tmp_path, four):
        for i in range(2):
            (tmp_path / "set0" / f"{i}.csv").write_text(
                (tmp_path / f"set{i}/results.csv").read_text()
            )
        across = read_across([f"{four[0]}/0.csv", f"{four[0]}/1.csv"], None)
        assert [d.name for d in across.data_sets] == [f"{four[0]}/0.csv", f"{four[0]}/1.csv"]
        assert len(across.means) == 2

    def test_folders_of_the_same_name(self, tmp_path):
        for i in range(2):
            (tmp_path / f"{i}").mkdir()
        folders = [write_results(tmp_path / f"{i}" / "x", FOUR[i]) for i in range(2)]
        assert [d.name for d in read_across(folders, None).data_sets] == folders

    def test_a_folder_named_like_a_column(self, tmp_path, four):
        named = write_results(tmp_path / "variant", {"base": 0.1, "Auto": 0.2, "Sum": 0.3})
        across = read_across([four[0], named], None)
        for found, names in (
            (points_table(across), ["Auto", "Sum"]), (mean_table(across), across.variants),
        ):  # fmt: skip
            assert list(found.columns) == ["variant", "set0", "variant"]
            assert list(found.iloc[:, 0]) == names
        assert list(points_table(across).iloc[:, 2]) == [
            "+10.00 [5.70, 14.30] ▲", "+20.00 [15.70, 24.30] ▲",
        ]  # fmt: skip


DAMAGED = [
    ("learning_rate", "", "a number above 0"),
    ("learning_rate", "fast", "a number above 0"),
    ("learning_rate", "inf", "a number above 0"),
    ("learning_rate", "-0.1", "a number above 0"),
    ("seed", "", "a whole number from 0 to 4294967295"),
    ("seed", "x", "a whole number from 0 to 4294967295"),
    ("seed", "1.5", "a whole number from 0 to 4294967295"),
    ("seed", "1e300", "a whole number from 0 to 4294967295"),
    ("seed", "-1", "a whole number from 0 to 4294967295"),
    ("status", "", "one of done, failed, missing"),
    ("status", "weird", "one of done, failed, missing"),
    ("validation_mIoU", "text", "a number from 0 to 1 or nothing"),
    ("validation_mIoU", "inf", "a number from 0 to 1 or nothing"),
    ("test_mIoU", "text", "a number from 0 to 1 or nothing"),
    ("test_mIoU", "0,85", "a number from 0 to 1 or nothing"),
    ("test_mIoU", "85.0", "a number from 0 to 1 or nothing"),
    ("test_mIoU", "-inf", "a number from 0 to 1 or nothing"),
    ("collapsed", "", "one of true, false"),
    ("collapsed", "maybe", "one of true, false"),
    ("variant", "", "a name"),
]


class TestDamaged:
    @pytest.mark.parametrize(("column", "value", "what"), DAMAGED)
    def test_value(self, four, column, value, what):
        change(four[1], lambda t: t.astype(object).where(~is_third(t, column), value))
        message = f"{four[1]}/results.csv: row 4, column {column}: expected {what}, found {value!r}"
        with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
            read_across(four, None)

    def test_run_that_occurs_twice(self, four):
        change(four[1], lambda t: pd.concat([t, t[2:3].assign(test_mIoU=0.1)]))
        with pytest.raises(DataError, match=r"row 14: expected one run of 'base' .* in row 4 too$"):
            read_across(four, None)

    def test_file_that_is_cut_off(self, tmp_path, four):
        path = tmp_path / "set1" / "results.csv"
        path.write_text(path.read_text()[:-20])
        with pytest.raises(DataError, match=r"row 13: expected 9 values, found \d; .* be cut off$"):
            read_across(four, None)

    def test_column_that_occurs_twice(self, tmp_path, four):
        path = tmp_path / "set1" / "results.csv"
        path.write_text(path.read_text().replace(",weights,", ",seed,", 1))
        with pytest.raises(DataError, match="expected a single column 'seed', found several"):
            read_across(four, None)

    @pytest.mark.parametrize("point", [".", ","])
    def test_semicolons(self, tmp_path, four, point):
        """As spreadsheets save it where a comma is the decimal point."""
        path = tmp_path / "set1" / "results.csv"
        pd.read_csv(path).to_csv(path, index=False, sep=";", decimal=point)
        with pytest.raises(DataError, match=r"results.csv: expected commas between the columns"):
            read_across(four, None)

    def test_what_other_programs_write(self, tmp_path, four):
        """A byte order mark, blank lines, capitals, and whole numbers with a point."""
        path = tmp_path / "set1" / "results.csv"
        expected = read_across(four, None).means
        text = path.read_text().replace("False", "FALSE").replace(",2,done", ",2.0,done")
        path.write_text(text + "\n\n", encoding="utf-8-sig")
        np.testing.assert_array_equal(read_across(four, None).means, expected)


def change(folder, edit):
    """Edit ``results.csv``."""
    path = Path(folder) / "results.csv"
    edit(pd.read_csv(path, keep_default_na=False)).to_csv(path, index=False)


def is_third(frame, column):
    found = pd.DataFrame(False, frame.index, frame.columns)
    found.loc[2, column] = True
    return found


class TestRefused:
    def test_results_that_are_missing(self, tmp_path, four):
        with pytest.raises(
            DataError, match=r"expected the results.csv of a comparison, found no such file$"
        ):
            read_across([four[0], str(tmp_path / "nothing")], None)
        (tmp_path / "bad").mkdir()
        (tmp_path / "bad" / "results.csv").write_bytes(b"\xff\x00")
        with pytest.raises(DataError, match=r"expected the results of a comparison: .*decode"):
            read_across([four[0], str(tmp_path / "bad")], None)
        (tmp_path / "bad" / "results.csv").write_text("variant,seed\na,1\n")
        with pytest.raises(DataError, match="expected a column learning_rate, found none"):
            read_across([four[0], str(tmp_path / "bad")], None)
        undone = write_results(tmp_path / "undone", FOUR[0], status="failed")
        with pytest.raises(DataError, match="expected finished runs, found none"):
            read_across([four[0], undone], None)

    def test_folders(self, four):
        with pytest.raises(ConfigError, match="--across: expected two or more folders, found 1"):
            read_across(four[:1], None)
        with pytest.raises(ConfigError, match=r"expected different comparisons, found .* twice"):
            read_across([four[0], four[0] + "/results.csv"], None)
        (Path(four[0]).parent / "empty").mkdir()
        with pytest.raises(DataError, match=r"no such file; run .* --report_only to write it$"):
            read_across([four[0], four[0].replace("set0", "empty")], None)

    @pytest.mark.parametrize(
        "edit",
        [
            lambda t: t,
            lambda t: t[::-1],
            lambda t: pd.concat([t, t[:1].assign(seed=9, status="missing", test_mIoU="")]),
            # Trained for more seeds, a row lost, a figure edited.
            lambda t: pd.concat([t, t.assign(seed=t.seed + 10, test_mIoU=t.test_mIoU - 0.01)]),
            lambda t: t[1:],
            lambda t: t.assign(test_mIoU=[0.123, *t.test_mIoU[1:]]),
        ],
    )
    def test_a_copy(self, tmp_path, four, edit):
        shutil.copytree(four[1], tmp_path / "copy")
        change(tmp_path / "copy", edit)
        with pytest.raises(
            ConfigError, match=r"same runs with the same figures in .*set1/.* and .*copy/.*; leave"
        ):
            read_across([*four, str(tmp_path / "copy")], None)

    def test_variants(self, tmp_path, four):
        with pytest.raises(ConfigError, match=r"--baseline: expected a variant of set0 .*'fixed"):
            read_across(four, "nobody")
        other = write_results(tmp_path / "other", {"base": 0.5, "another": 0.4})
        with pytest.raises(ConfigError, match=r"on every data set, found base$"):
            read_across([four[0], other], None)
        empty = write_results(tmp_path / "none", FOUR[1], test_mIoU="")
        with pytest.raises(ConfigError, match=r"on every data set, found none$"):
            read_across([four[0], empty], None)


def compare(*words) -> None:
    compare_from(parse_args(["compare", *words]), CONFIGS, "compare")


def test_the_command(four, tmp_path, monkeypatch):
    """Report, table, a variant that one data set lacks, and networks that learned nothing."""
    monkeypatch.chdir(tmp_path)
    lower = {name: mean - 0.001 for name, mean in FOUR[0].items()}
    more = write_results(tmp_path / "more", {**lower, "=extra": 0.5})
    other = {"base": 0.71, "Auto": 0.72}
    collapsed = write_results(tmp_path / "flat", {**FOUR[1], **other}, collapsed=True)
    compare("--across", *four, more, collapsed, "--baseline", "Sum")
    report = (tmp_path / "output/across/report.md").read_text()
    assert "=extra (not on set0, set1, set2, set3, flat)" in report
    assert "> **Warning:** Some networks predict at most one class" in report
    assert "Auto on flat (seed 0, 1, 2)" in report
    assert "on average, because a network on flat has learned nothing" in report
    assert "| Auto | +20.00 [15.70, 24.30] ▲ |" in report
    assert "+12.00 (collapsed) |" in report
    page = (tmp_path / "output/across/report.html").read_text()
    assert page.count("<svg") == 6
    assert "Auto, seed 1: +18.00 points" in page
    assert (tmp_path / "output/across/figures/differences.png").is_file()
    rows = table(tmp_path / "output/across/across.csv")
    assert len(rows) == 6 * 3
    of_auto = [float(row["rank"]) for row in rows if row["variant"] == "Auto"]
    assert of_auto == [1] * 6

    with pytest.raises(ConfigError, match="--save_dir: expected a folder without a comparison"):
        compare("--across", *four, "--save_dir", four[0])
    file = f"{four[0]}/results.csv"
    for save_dir in (file, f"{file}/x"):
        with pytest.raises(ConfigError, match=f"^--save_dir: expected a folder, .* file {file}$"):
            compare("--across", *four, "--save_dir", save_dir)


@pytest.mark.parametrize(
    "words",
    [
        "--grid 0.1:0.9:0.2",
        "--grid=",
        "--validation 0",
        "--engine ray",
        "--jobs 3",
        "--samples 2",
        "--no_samples",
    ],
)
def test_flags_for_runs(four, words):
    flag = words.replace("=", " ").split()[0]
    with pytest.raises(ConfigError, match=f"expected finished comparisons only, found {flag}$"):
        compare("--across", *four, *words.split())


def test_every_flag_is_refused_or_used():
    args = vars(parse_args(["compare"]))
    used = {"across", "baseline", "save_dir", "quiet", "device", "configs"}
    rest = {name: args[name] for name in _FOR_RUNS}
    assert rest == _FOR_RUNS
    assert set(args) - set(_FOR_RUNS) - used <= {"command", "run", "command_line"}


def test_small_p_values_are_no_zeros(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = [f"v{i}" for i in range(9)]
    folders = [
        write_results(tmp_path / f"s{j}", {n: 0.1 + i / 20 + j / 100 for i, n in enumerate(names)})
        for j in range(12)
    ]
    compare("--across", *folders)
    report = (tmp_path / "output/across/report.md").read_text()
    assert "p is below 0.001 by permutation (the smallest possible p is below 0.001)" in report
    assert not re.search(r"\| 0 \||p (is|=) 0\b(?!\.)", report)
