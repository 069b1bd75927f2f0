"""The run list: what is read, which value wins, and every mistake found before anything runs."""

from __future__ import annotations

import nbformat
import pytest

from selfsim.publish.run_list import read_run_list
from tests.conftest import write_notebook

GOOD = """\
chapters:
  first:
    title: The first
    notebook: sub/tiny.ipynb
    parameters: {name: a, epochs: 1, weight: 1e-3}
    intro: |
      Hello.
  second: {notebook: sub/tiny.ipynb}
presets:
  quick:
    description: small
    jobs: 2
    minutes: 4
    disk: 100 MB
    parameters: {epochs: 2, seeds: [5]}
    chapters: {first: {epochs: 3, flag: true}}
  one: {only: [second]}
"""


@pytest.fixture
def written(tmp_path):
    def write(text=GOOD):
        write_notebook(tmp_path / "sub" / "tiny.ipynb")
        (tmp_path / "runs.yml").write_text(text)
        return tmp_path / "runs.yml"

    return write


def test_all_of_a_preset_is_read(written):
    run_list = read_run_list(written(), "quick")
    assert (run_list.preset, run_list.description, run_list.jobs) == ("quick", "small", 2)
    assert (run_list.minutes, run_list.disk) == (4, "100 MB")
    part = read_run_list(run_list.path, "quick", only=[run_list.chapters[0].name])
    assert (part.minutes, part.disk, part.jobs) == (None, "", run_list.jobs)  # those are of the whole preset
    first, second = run_list.chapters
    assert (first.name, first.title, first.intro) == ("first", "The first", "Hello.")
    # It shares its notebook, has no title, and no parameters of its own; it is called the same without the other.
    assert (second.title, second.intro) == ("Second", "")
    assert [c.title for c in read_run_list(written(), "one").chapters] == ["Second"]
    alone = GOOD.replace("{notebook: sub/tiny.ipynb}", "{notebook: sub/other.ipynb}")
    write_notebook(first.notebook.with_name("other.ipynb"))
    assert read_run_list(written(alone), "quick").chapters[1].title is None
    assert first.notebook.is_file()


def test_each_notebook_is_parsed_once(written, monkeypatch):
    path, parsed = written(), []
    reads = nbformat.reads
    monkeypatch.setattr(nbformat, "reads", lambda text, **options: parsed.append(text) or reads(text, **options))
    assert len(read_run_list(path, "quick", [("epochs", "9")]).chapters) == 2
    assert len(parsed) == 1


def test_later_parameters_win(written):
    path = written()
    first, second = read_run_list(path, "quick").chapters
    assert first.parameters == {"name": "a", "epochs": 3, "weight": 1e-3, "seeds": [5], "flag": True}
    assert second.parameters == {"epochs": 2, "seeds": [5]}
    first, second = read_run_list(path, "quick", [("epochs", "9"), ("weight", "2")]).chapters
    assert (first.parameters["epochs"], first.parameters["weight"]) == (9, 2.0)
    assert second.parameters == {"epochs": 9, "seeds": [5], "weight": 2.0}


def test_a_subset_is_chosen_by_the_preset_or_the_caller(written):
    path = written()
    assert [c.name for c in read_run_list(path, "one").chapters] == ["second"]
    assert [c.name for c in read_run_list(path, "one", only=["first"]).chapters] == ["first"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("presets:", "preset:", "run list: key: got 'preset'.*mean 'presets'"),
        ("title:", "titel:", "chapter 'first': key: got 'titel'.*mean 'title'"),
        ("jobs:", "job:", "preset 'quick': key: got 'job'.*mean 'jobs'"),
        ("jobs: 2", "jobs: two", "preset 'quick': jobs: got 'two', need an integer"),
        ("jobs: 2", "jobs: 0", "preset 'quick': jobs: got 0, need more than 0"),
        ("minutes: 4", "minutes: .nan", "preset 'quick': minutes: got nan, need more than 0"),
        ("minutes: 4", "minutes: .inf", "preset 'quick': minutes: got inf, need more than 0"),
        ("only: [second]", "only: [2]", "preset 'one': only: got .2., need a list of texts"),
        ("intro: |", "reads: [3]\n    intro: |", "chapter 'first': reads: got .3., need a list of texts"),
        ("  first:\n", "  1:\n", "chapters: key: got 1, need text"),
        ("  one:", "  1:", "presets: key: got 1, need text"),
        ("epochs: 3,", "epochs: 1:30,", "chapter 'first': epochs: got '1:30' .str., need int"),
        ("epochs: 3,", "epochs: .nan,", "chapter 'first': epochs: got nan .float., need int"),
        ("weight: 1e-3", "weight: .inf", "chapter 'first': weight: got inf .float., need float, finite"),
        ("seeds: [5]", "seeds: [5, 5]", "chapter 'first': seeds: got .5, 5. .*need at least one, each once"),
        ("seeds: [5]", "seeds: []", "chapter 'first': seeds: got .* need at least one, each once"),
        ("only: [second]", "only: [secnd]", "preset 'one': only: got 'secnd'.*mean 'second'"),
        ("{first: {epochs", "{frist: {epochs", "preset 'quick': chapters: got 'frist'.*mean 'first'"),
        ("sub/tiny.ipynb\n", "sub/tinny.ipynb\n", "chapter 'first': notebook: there is no .*tinny"),
        ("epochs: 1,", "epoch: 1,", "chapter 'first': parameter of tiny.ipynb: got 'epoch'.*mean 'epochs'"),
        ("flag: true", "flag: 1", "chapter 'first': flag: got 1 .int., need bool"),
        ("  first:\n", "  fir/st:\n", "chapter 'fir/st': need a file name"),
        ("  first:\n", "  second:\n", "runs.yml: line 2 and after: the key 'second' occurs twice"),
        ("    jobs: 2", "   jobs: 2", "runs.yml: .*line"),
    ],
)
def test_every_mistake_is_named_with_its_file(written, old, new, message):
    assert old in GOOD
    with pytest.raises((ValueError, FileNotFoundError), match=rf"(?s)runs\.yml: .*{message}|{message}") as caught:
        read_run_list(written(GOOD.replace(old, new, 1)), "quick")
    assert "runs.yml" in str(caught.value)


def test_a_chapter_may_name_folders_that_it_reads(written, tmp_path):
    good = GOOD.replace("second: {notebook: sub/tiny.ipynb}", "second: {notebook: sub/tiny.ipynb, reads: [sub]}")
    assert [chapter.reads for chapter in read_run_list(written(good), "quick").chapters] == [(), (tmp_path / "sub",)]
    with pytest.raises(FileNotFoundError, match="chapter 'second': reads: there is no folder .*none"):
        read_run_list(written(good.replace("reads: [sub]", "reads: [none]")), "quick")


def test_a_chapter_may_name_the_preset_of_its_published_page(written):
    good = GOOD.replace("second: {notebook: sub/tiny.ipynb}", "second: {notebook: sub/tiny.ipynb, published: one}")
    assert [chapter.published for chapter in read_run_list(written(good), "quick").chapters] == ["", "one"]
    with pytest.raises(ValueError, match=r"chapter 'second': published \(a preset\): got 'larg', need one of 'quick'"):
        read_run_list(written(good.replace("published: one", "published: larg")), "quick")


def test_unknown_preset_chapter_override_and_missing_file(written, tmp_path):
    path = written()
    with pytest.raises(ValueError, match="preset: got 'quik', need one of 'quick', 'one'; did you mean 'quick'"):
        read_run_list(path, "quik")
    with pytest.raises(ValueError, match="chapter: got 'thrid'"):
        read_run_list(path, "quick", only=["thrid"])
    with pytest.raises(ValueError, match="runs.yml: -p: got 'epoch'.*did you mean 'epochs'"):
        read_run_list(path, "quick", [("epoch", "1")])
    with pytest.raises(ValueError, match="runs.yml: epochs: got 'many', need int"):
        read_run_list(path, "quick", [("epochs", "many")])
    with pytest.raises(FileNotFoundError, match="no such run list"):
        read_run_list(tmp_path / "none.yml", "quick")


def test_parameters_for_all_reach_the_chapters_that_have_them(written, tmp_path):
    path = written(GOOD.replace("second: {notebook: sub/tiny.ipynb}", "second: {notebook: sub/other.ipynb}"))
    write_notebook(tmp_path / "sub" / "other.ipynb", parameters="size: int = 3")
    first, second = read_run_list(path, "quick", [("weight", "2"), ("size", "7")]).chapters
    assert (first.parameters["seeds"], first.parameters["weight"]) == ([5], 2.0)
    assert second.parameters == {"size": 7}
    with pytest.raises(ValueError, match="-p: got 'wieght'.*did you mean 'weight'"):
        read_run_list(path, "quick", [("wieght", "2")])
    with pytest.raises(ValueError, match="-p: got 'weight', need one of 'size'"):
        read_run_list(path, "quick", [("weight", "2")], only=["second"])  # of the chapters that are made
    path.write_text(path.read_text().replace("parameters: {epochs: 2,", "parameters: {epoch: 2,"))
    with pytest.raises(ValueError, match="parameter for all chapters: got 'epoch'.*did you mean 'epochs'"):
        read_run_list(path, "quick")


def test_a_chapter_may_read_from_chapters_above_it(written):
    good = GOOD.replace("second: {notebook: sub/tiny.ipynb}", "second: {notebook: sub/tiny.ipynb, after: [first]}")
    first, second = read_run_list(written(good), "quick").chapters
    assert (first.after, second.after) == ((), ("first",))
    assert read_run_list(written(good), "one").chapters[0].after == ()  # it is not made in this preset
    for wrong in ("after: [frist]", "after: [second]"):
        with pytest.raises(ValueError, match=r"chapter 'second': after \(chapters above it\): got"):
            read_run_list(written(good.replace("after: [first]", wrong)), "quick")


def test_defaults_have_the_lowest_rank(written):
    first, second = read_run_list(written(), "quick", defaults={"epochs": 9, "weight": 7.0, "unknown": 1}).chapters
    assert (first.parameters["epochs"], first.parameters["weight"]) == (3, 1e-3)
    assert second.parameters == {"epochs": 2, "seeds": [5], "weight": 7.0}


def test_a_subset_may_lack_what_others_have(written, tmp_path):
    path = written(GOOD.replace("second: {notebook: sub/tiny.ipynb}", "second: {notebook: sub/other.ipynb}"))
    write_notebook(tmp_path / "sub" / "other.ipynb", parameters="seeds: list[int] = [1]")
    (second,) = read_run_list(path, "quick", only=["second"]).chapters
    assert second.parameters == {"seeds": [5]}
