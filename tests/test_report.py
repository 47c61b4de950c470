"""The report opens offline, shows what it was given, and survives missing figures."""

import base64
import math
import re
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest

from hrda_core.evaluation.charts import Chart, render_chart
from hrda_core.evaluation.formatting import DASH, format_number
from hrda_core.evaluation.pictures import ERROR_COLOURS, confidence_map, error_map, overlay, shrink
from hrda_core.evaluation.report import Legend, PictureRow, Section, Table, write_report

NAN = math.nan
RED = (255, 0, 0)


def photo(height=30, width=40):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)


def report(tmp_path, *items, title="Report", lead="", facts=None, text=""):
    path = write_report(tmp_path / "report.html", title, lead, facts or {}, [Section("Part", text, list(items))])
    return path.read_text(encoding="utf-8")


def pictures(html):
    sources = re.findall(r'src="data:image/(?:png|jpeg);base64,([^"]+)"', html)
    return [cv2.imdecode(np.frombuffer(base64.b64decode(source), np.uint8), cv2.IMREAD_COLOR_RGB) for source in sources]


class Outline(HTMLParser):
    """Checks that tags nest, and collects attributes and visible text."""

    def __init__(self, html):
        super().__init__()
        self.open, self.attributes, self.texts, self.tags = [], [], [], []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


@pytest.fixture
def full(tmp_path):
    return report(
        tmp_path,
        Table("Per class", ["Class", "IoU"], [["crack", 0.5]], note="A note"),
        Chart("Loss", {"source": [(i, 1 / (i + 1)) for i in range(500)]}, y_label="nats"),
        Legend(ERROR_COLOURS),
        PictureRow("photo.jpg", [("Photo", photo()), ("Again", photo())]),
        title="Cracks",
        lead="A lead.",
        facts={"Crack IoU": "0.374", "Model": "HRDA with a MiT-B5 encoder"},
    )


def test_is_one_wellformed_page_that_loads_nothing(full):
    outline = Outline(full)
    assert "http://" not in full and "https://" not in full
    assert "@import" not in full and "url(" not in full
    assert not {"link", "iframe", "object", "embed"} & set(outline.tags)
    sources = [value for name, value in outline.attributes if name in ("src", "srcset", "data", "action", "xlink:href")]
    assert len(sources) == 2
    assert all(source.startswith("data:image/") for source in sources)
    assert all(value.startswith("#") for name, value in outline.attributes if name == "href")
    assert "default-src 'none'" in full


def test_shows_everything_it_was_given(full):
    texts = Outline(full).texts
    for text in ("Cracks", "A lead.", "0.374", "Crack IoU", "HRDA with a MiT-B5 encoder", "Per class", "0.500"):
        assert text in texts
    for text in ("A note", "Loss", "nats", "iteration", "source", "photo.jpg", "Again", "false alarm"):
        assert text in texts


def test_names_are_escaped_everywhere(tmp_path):
    evil = "<script>alert('x')</script>\"&"
    html = report(
        tmp_path,
        Table(evil, [evil, evil], [[evil, evil]], note=evil),
        Chart(evil, {evil: [(0, 1.0), (1, NAN), (2, 3.0)]}, x_label=evil, y_label=evil),
        Legend({evil: (1, 2, 3)}),
        PictureRow(evil, [(evil, photo())]),
        title=evil,
        lead=evil,
        facts={evil: evil, "short": "<b>"},
        text=evil,
    )
    outline = Outline(html)
    assert outline.tags.count("script") == 1
    assert "<script>alert" not in html
    assert "<b>" in outline.texts
    assert ("alt", f"{evil}: {evil}") in outline.attributes
    assert ("aria-label", evil) in outline.attributes


def test_short_facts_are_cards_and_long_ones_lines(tmp_path):
    html = report(tmp_path, facts={"IoU": "0.5", "Data": "Bridge inspection, north side", "Empty": ""})
    assert html.count('<div class="card">') == 2
    assert '<dl class="block details"><div><dt>Data</dt>' in html
    assert f"<dt>Empty</dt><dd>{DASH}</dd>" in html


def test_contents_appear_from_three_sections_on(tmp_path):
    def page(count):
        sections = [Section(f"Part {index}", "", []) for index in range(count)]
        return write_report(tmp_path / "r.html", "R", "", {}, sections).read_text()

    assert "<nav" not in page(2)
    assert '<a href="#part2">Part 2</a>' in page(3) and '<section id="part2">' in page(3)


def test_replaces_an_older_report_in_one_step_and_leaves_nothing_behind(tmp_path):
    path = tmp_path / "new" / "report.html"
    for title in ("First", "Second"):
        assert write_report(path, title, "", {}, []) == path
    assert "Second" in path.read_text() and "First" not in path.read_text()
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]


def test_a_failed_report_keeps_the_older_one(tmp_path):
    path = write_report(tmp_path / "report.html", "First", "", {}, [])
    with pytest.raises(ValueError, match="pass RGB uint8"):
        report(tmp_path, PictureRow("", [("grey", np.zeros((4, 4), np.uint8))]))
    assert "First" in path.read_text()
    assert len(list(tmp_path.iterdir())) == 1


def test_a_full_disk_keeps_the_older_report_and_leaves_nothing_behind(tmp_path, monkeypatch):
    def full_disk(descriptor):
        raise OSError("No space left on device")

    path = write_report(tmp_path / "report.html", "First", "", {}, [])
    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_report(path, "Second", "", {}, [])
    assert "First" in path.read_text()
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]


def test_file_names_that_are_no_text_do_not_fail_it(tmp_path):
    assert "photo?.jpg" in report(tmp_path, PictureRow("photo\udcff.jpg", [("", photo())]))


# Tables


def test_missing_figures_show_as_a_dash(tmp_path):
    html = report(tmp_path, Table("T", ["Class", "IoU"], [["a", None], ["b", NAN], ["c", 0.25], ["d", np.float32(0.5)]]))
    cells = re.findall(r'<td class="number">([^<]+)</td>', html)
    assert cells == [DASH, DASH, "0.250", "0.500"]
    assert "nan" not in " ".join(Outline(html).texts[:-2]).lower()


def test_numbers_of_a_column_share_their_decimals(tmp_path):
    html = report(tmp_path, Table("T", ["Arm", "It.", "%"], [["a", 20000, 7.125], ["b", 500, 88.0]]))
    assert re.findall(r'<td class="number">([^<]+)</td>', html) == ["20,000", "7.12", "500", "88.00"]


def test_an_empty_table_says_so(tmp_path):
    assert "No data yet" in report(tmp_path, Table("T", ["Class", "IoU"], []))


def test_a_row_of_the_wrong_length_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"rows: \['a'\] has 1 cells, the header 2"):
        report(tmp_path, Table("T", ["Class", "IoU"], [["a"]]))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, DASH),
        (NAN, DASH),
        (math.inf, "∞"),
        (-math.inf, "-∞"),
        (0, "0"),
        (0.0, "0.000"),
        (3, "3"),
        (0.37449, "0.374"),
        (12.345, "12.35"),
        (345.67, "345.7"),
        (20000, "20,000"),
        (1234.5, "1,234"),
        (6e-5, "6e-5"),
        (-0.0001, "-1e-4"),
    ],
)
def test_numbers_are_readable(value, text):
    assert format_number(value) == text


# Charts


def path_points(svg):
    """Points of every line, in pieces between gaps."""
    lines = re.findall(r'<path class="[^"]*" d="([^"]*)"', svg)
    return [[np.array(re.findall(r"-?[\d.]+", piece), float).reshape(-1, 2) for piece in d.split("M")[1:]] for d in lines]


def ticks(svg):
    return re.findall(r"<text [^>]*>([^<]*)</text>", svg)


@pytest.mark.parametrize(
    "series",
    [
        {},
        {"empty": []},
        {"lost": [(0, NAN), (1, NAN)]},
        {"infinite": [(0, math.inf), (1, -math.inf)]},
        {"nowhere": [(NAN, 1.0)]},
    ],
)
def test_a_chart_without_data_says_so(series):
    svg = render_chart(Chart("Loss", series))
    assert "No data yet" in svg
    assert svg.count("no data</b>") == len(series)
    Outline(svg)


@pytest.mark.parametrize("value", [0.0, 7.3, -2.0, 1e-9, 3e12])
def test_a_single_point_is_a_dot_in_the_middle(value):
    svg = render_chart(Chart("Memory", {"GPU": [(10, value)], "none": []}))
    assert svg.count("<circle") == 1
    x, y = re.search(r'cx="([-\d.]+)" cy="([-\d.]+)"', svg).groups()
    assert 0 < float(x) < 452 and 4 <= float(y) <= 228
    assert "nan" not in svg.lower()


def test_a_constant_line_has_an_axis():
    svg = render_chart(Chart("C", {"a": [(0, 5.0), (1, 5.0)]}))
    assert len(path_points(svg)[0][0]) == 2
    assert "nan" not in svg


def test_points_that_are_not_finite_leave_a_gap_and_lone_points_a_dot():
    values = [1.0, 2.0, NAN, 3.0, math.inf, 4.0, 5.0] + [5.0] * 50
    svg = render_chart(Chart("C", {"a": list(enumerate(values))}))
    assert [len(piece) for piece in path_points(svg)[0]] == [2, 1, 52]
    assert svg.count("<circle") == 1


def test_a_higher_value_is_drawn_higher_and_the_axis_starts_at_zero():
    svg = render_chart(Chart("C", {"a": [(0, 0.0), (10, 50.0), (20, 100.0)]}))
    [[points]] = path_points(svg)
    np.testing.assert_allclose(points, [[0, 228], [226, 116], [452, 4]], atol=0.1)
    assert ticks(svg) == ["0", "20", "40", "60", "80", "100", "0", "5", "10", "15", "20", "iteration"]


def test_ticks_are_short():
    assert "20k" in ticks(render_chart(Chart("C", {"a": [(0, 1.0), (19990, 2.0)]})))
    assert "6e-5" in ticks(render_chart(Chart("C", {"a": [(0, 0.0), (1, 6e-5)]})))
    assert "0.25" in ticks(render_chart(Chart("C", {"a": [(0, 0.21), (1, 0.39)]})))
    assert "2.5M" in ticks(render_chart(Chart("C", {"a": [(0, 0.0), (2.5e6, 1.0)]})))


def noisy(count):
    return [(i, 1 + float(noise)) for i, noise in enumerate(np.random.default_rng(0).normal(0, 0.2, count))]


def test_long_noisy_series_get_a_smooth_line_over_the_thin_raw_one():
    svg = render_chart(Chart("Loss", {"a": noisy(600)}))
    raw, smooth = path_points(svg)
    assert '<path class="raw s0"' in svg
    assert np.std(smooth[0][:, 1]) < 0.3 * np.std(raw[0][:, 1])
    assert abs(np.mean(smooth[0][:, 1]) - np.mean(raw[0][:, 1])) < 2
    assert len(path_points(render_chart(Chart("Loss", {"a": noisy(200)})))) == 1


def test_a_long_calm_series_is_drawn_as_it_is():
    rate = [(i, min(i / 100, 1) * (1 - i / 1000)) for i in range(1000)]
    svg = render_chart(Chart("Learning rate", {"a": rate}))
    [[points]] = path_points(svg)
    assert "raw" not in svg
    assert points[:, 1].min() == pytest.approx(4 + 224 * 0.1, abs=1)  # the peak of 0.9 is not blunted


def test_long_runs_stay_small_and_keep_their_spikes():
    series = noisy(40000)
    series[20000] = (20000, 2.4)
    svg = render_chart(Chart("Loss", {"a": series}))
    assert len(svg) < 40_000
    raw = path_points(svg)[0][0]
    assert raw[:, 1].min() < 4  # above the frame, where the picture clips it
    Outline(svg)


def test_a_spike_does_not_flatten_the_rest():
    series = noisy(1000)
    series[3] = (3, 1e6)
    assert ticks(render_chart(Chart("Loss", {"a": series})))[:4] == ["0", "0.5", "1.0", "1.5"]


def test_more_lines_than_colours_are_dashed():
    svg = render_chart(Chart("C", {f"class {k}": [(0, k), (1, k)] for k in range(9)}))
    assert '<path class="s7"' in svg and '<path class="s0 dashed"' in svg


def test_the_legend_gives_the_last_known_value():
    svg = render_chart(Chart("C", {"a": [(0, 1.0), (1, 0.25), (2, NAN)]}))
    assert '<b title="last value">0.250</b>' in svg


# Pictures


def test_pictures_are_embedded_and_shrunk_to_512(tmp_path):
    small, tall = photo(30, 40), cv2.resize(photo(), (300, 1200))
    html = report(tmp_path, PictureRow("a", [("small", small), ("tall", tall)]), PictureRow("none", []))
    embedded = pictures(html)
    assert [picture.shape for picture in embedded] == [(30, 40, 3), (512, 128, 3)]


def test_flat_colours_are_embedded_exactly_and_in_rgb(tmp_path):
    flat = np.zeros((64, 64, 3), np.uint8)
    flat[:, 20:] = (250, 10, 60)
    [embedded] = pictures(report(tmp_path, PictureRow("a", [("flat", flat)])))
    np.testing.assert_array_equal(embedded, flat)


def test_shrink_keeps_the_shape_and_never_enlarges():
    assert shrink(photo(30, 40), 20).shape == (15, 20, 3)
    assert shrink(photo(2, 4000), 512).shape == (1, 512, 3)
    assert shrink(photo(30, 40), 512).shape == (30, 40, 3)


def test_overlay_leaves_the_background_bare_and_hatches_ignored():
    image = np.full((64, 64, 3), 100, np.uint8)
    labels = np.zeros((64, 64), np.uint8)
    labels[:, 16:32] = 1
    labels[:, 32:] = 255
    painted = overlay(image, labels, [(0, 0, 0), RED], opacity=0.5)
    assert (painted[:, :16] == 100).all()
    np.testing.assert_allclose(painted[:, 16:32], np.broadcast_to((178, 50, 50), (64, 16, 3)), atol=1)
    hatched = painted[:, 32:]
    assert len(np.unique(hatched)) == 2 and (hatched[..., 0] == hatched[..., 2]).all()
    assert (image == 100).all()


def test_overlay_paints_class_zero_where_there_is_no_background():
    image, labels = np.zeros((2, 2, 3), np.uint8), np.zeros((2, 2), np.uint8)
    assert (overlay(image, labels, [RED], opacity=1.0, has_background=False) == RED).all()


def test_confidence_goes_from_dark_to_bright():
    ramp = np.array([[0, 0.25, 0.5, 0.75, 1.0, NAN, 2.0]], np.float32)
    picture = confidence_map(ramp)
    lightness = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)[0].astype(int)
    assert (np.diff(lightness[:5]) > 10).all()
    assert lightness[5] == lightness[0] and lightness[6] == lightness[4]
    red, green, blue = picture[0, 4]
    assert red > 200 and green > 200 and blue < 100  # yellow, so the channels are in RGB order


def test_error_map_colours_every_case():
    prediction = np.array([[1, 1, 0, 2, 0, 1, 255, 255]], np.uint8)
    label = np.array([[1, 0, 1, 1, 0, 255, 1, 0]], np.uint8)
    names = ["found", "false alarm", "missed", "wrong class", "background", "ignored", "missed", "background"]
    assert error_map(prediction, label)[0].tolist() == [list(ERROR_COLOURS[name]) for name in names]


def test_error_map_without_background_has_only_right_wrong_and_missed():
    picture = error_map(np.array([[0, 1, 255]], np.uint8), np.array([[0, 0, 0]], np.uint8), has_background=False)
    assert picture[0].tolist() == [list(ERROR_COLOURS[name]) for name in ("found", "wrong class", "missed")]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: overlay(photo(4, 4), np.zeros((4, 5), np.uint8), [RED]), "image: uint8"),
        (lambda: overlay(photo(4, 4), np.full((4, 4), 3, np.uint8), [RED, RED]), r"labels: values \[3\]"),
        (lambda: overlay(photo(4, 4), np.zeros((4, 4), np.uint8), [RED], opacity=2), "opacity: 2"),
        (lambda: confidence_map(np.zeros((2, 2, 2), np.float32)), "confidence: shape"),
        (lambda: error_map(np.zeros((2, 2), np.uint8), np.zeros((2, 3), np.uint8)), "prediction: shape"),
    ],
)
def test_pictures_that_do_not_fit_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
