"""Execution: the right kernel and cores, finished chapters kept, failures reported, no orphans, clean pages."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import nbformat
import psutil
import pytest

from selfsim.files import locked_directory
from selfsim.publish.chapter import ChapterError
from selfsim.publish.cores import thread_share
from selfsim.publish.digests import chapter_fingerprint
from selfsim.publish.kernels import KernelServer
from selfsim.publish.run_list import read_run_list
from selfsim.publish.runner import execute
from tests.conftest import PARAMETERS, write_notebook

RUNS = """\
chapters:
  first: {notebook: tiny.ipynb, title: The first, intro: An *introduction*., parameters: {epochs: 7}}
  second: {notebook: tiny.ipynb, title: The second, parameters: {name: vit}}
presets:
  quick: {jobs: 2}
"""
# One line of JSON, so that a test can ask the executed page.
PRINTS = """\
import json, os, sys
print(json.dumps([sys.executable, os.environ.get("OMP_NUM_THREADS"), os.getcwd(), name, epochs, os.getpid()]))
os.system("echo written to the descriptor");"""


def printed(page):
    notebook = nbformat.read(page, as_version=4)
    text = "".join(output.text for cell in notebook.cells for output in cell.get("outputs", []) if "text" in output)
    return json.loads(text.splitlines()[0])


def tree(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def is_running(pid):
    # A process that ended but was not waited for is no longer running.
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


def wait_until(condition, seconds=30.0):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.05)
    return False


@pytest.fixture(scope="module", autouse=True)
def _package_at_rest():
    """The package counts as unchanged while these tests run, though somebody may be editing it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("selfsim.publish.digests.page_digest", lambda: "unchanged")
        yield


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """Two chapters, executed once beside a decoy kernel that a user installed."""
    folder = tmp_path_factory.mktemp("executed")
    source = nbformat.read(write_notebook(folder / "tiny.ipynb", PRINTS), as_version=4)
    source.cells[-1].metadata["mystnb"] = {"image": {"alt": "What {title} shows"}, "figure": {"name": "curves"}}
    nbformat.write(source, folder / "tiny.ipynb")
    (folder / "runs.yml").write_text(RUNS)
    decoy = folder / "jupyter" / "kernels" / "python3"
    decoy.mkdir(parents=True)
    (decoy / "kernel.json").write_text(
        json.dumps({"argv": ["/nowhere/python", "{connection_file}"], "display_name": "X", "language": "python"})
    )
    before = tree(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUPYTER_PATH", str(folder / "jupyter"))
        patch.delenv("OMP_NUM_THREADS", raising=False)
        run_list = read_run_list(folder / "runs.yml", "quick")
        pages = execute(run_list, folder / "out", progress=False)
    assert tree(folder) - before == {"out/first.ipynb", "out/second.ipynb", "out/.lock"}
    return run_list, folder / "out", pages


@pytest.mark.long
def test_each_chapter_gets_its_parameters_our_interpreter_and_its_share_of_the_cores(executed):
    _, out, pages = executed
    assert pages == [out / "first.ipynb", out / "second.ipynb"]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    share, here = str(max(1, cores // 2)), os.getcwd()
    first, second = printed(pages[0]), printed(pages[1])
    assert first[:5] == [sys.executable, share, here, "mlp", 7]
    assert second[:5] == [sys.executable, share, here, "vit", 3]
    assert not is_running(first[5])
    assert not is_running(second[5])


@pytest.mark.parametrize(("given", "share"), [("3", "3"), (None, "1")])
def test_a_number_of_threads_in_the_environment_holds_for_every_library(monkeypatch, given, share):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if given:
        monkeypatch.setenv("OMP_NUM_THREADS", given)
    assert set(thread_share(2).values()) == {share}


def test_a_page_has_title_and_introduction_and_nothing_of_this_machine(executed):
    run_list, _, pages = executed
    notebook = nbformat.read(pages[0], as_version=4)
    nbformat.validate(notebook)
    assert notebook.cells[0].source == "# The first\n\nAn *introduction*.\n\nSome text."
    assert nbformat.read(pages[1], as_version=4).cells[0].source == "# The second\n\nSome text."
    figure = {"image": {"alt": "What The first shows"}, "figure": {"name": "first-curves"}}
    assert notebook.cells[-1].metadata["mystnb"] == figure
    held = json.dumps([notebook.metadata, [cell.metadata for cell in notebook.cells]])
    assert str(pages[0].parent.parent) not in held
    assert "duration" not in held
    assert all("execution" not in cell.metadata for cell in notebook.cells)
    assert notebook.metadata["kernelspec"]["name"] == "python3"
    assert notebook.metadata["papermill"] == {"parameters": {"epochs": 7}}
    assert notebook.metadata["selfsim"]["fingerprint"] == chapter_fingerprint(run_list.chapters[0])


def test_finished_chapters_are_kept_and_changed_ones_made_anew(executed, capsys):
    run_list, out, pages = executed
    times = [page.stat().st_mtime_ns for page in pages]
    (out / "first.ipynb.partial").write_text("left by a kill")
    (out / ".run-notes").mkdir()  # somebody else's
    assert execute(run_list, out) == pages
    assert [page.stat().st_mtime_ns for page in pages] == times
    assert (out / ".run-notes").is_dir()
    assert capsys.readouterr().err == "first: kept from an earlier run\nsecond: kept from an earlier run\n"
    other = read_run_list(run_list.path, "quick", [("epochs", "8")], only=["first"])
    assert execute(other, out) == pages[:1]
    assert printed(pages[0])[4] == 8
    assert tree(out) == {"first.ipynb", "second.ipynb", ".lock"}
    assert pages[1].stat().st_mtime_ns == times[1]
    assert "first: done in " in capsys.readouterr().err


def test_the_fingerprint_changes_with_everything_that_a_page_shows(executed, tmp_path):
    run_list, _, _ = executed
    text = run_list.path.read_text()
    notebook = nbformat.read(run_list.chapters[0].notebook, as_version=4)

    def fingerprint(text=text):
        (tmp_path / "runs.yml").write_text(text)
        nbformat.write(notebook, tmp_path / "tiny.ipynb")
        return chapter_fingerprint(read_run_list(tmp_path / "runs.yml", "quick").chapters[0])

    # Neither the place of the notebook nor the random names of its cells matter.
    notebook.cells[-1]["id"] = "another"
    assert fingerprint() == chapter_fingerprint(run_list.chapters[0])
    changed = {
        fingerprint(),
        fingerprint(text.replace("epochs: 7", "epochs: 8")),
        fingerprint(text.replace("The first", "The 1st")),
        fingerprint(text.replace("*introduction*", "introduction")),
    }
    notebook.cells[-1].metadata["mystnb"] = {"image": {"alt": "Another text"}}
    changed.add(fingerprint())
    notebook.cells[-1].source += "\n1"
    assert len(changed | {fingerprint()}) == 6


def test_the_fingerprint_changes_with_the_files_that_a_chapter_reads(executed, tmp_path):
    run_list, *_ = executed
    (tmp_path / "figures").mkdir()
    chapter = replace(run_list.chapters[0], reads=(tmp_path / "figures",))
    found = {chapter_fingerprint(run_list.chapters[0]), chapter_fingerprint(chapter)}
    for name, text in (("a.csv", "1"), ("a.csv", "2"), ("b.csv", "2")):
        (tmp_path / "figures" / name).write_text(text)
        found.add(chapter_fingerprint(chapter))
    assert len(found) == 5


def test_the_fingerprint_changes_with_the_data_that_parameters_name(executed, tmp_path):
    chapter = executed[0].chapters[0]
    (tmp_path / "data").mkdir()
    own = {"data_dir": str(tmp_path / "data"), "runs": str(tmp_path / "runs"), "results": "nowhere"}
    chapter, found = replace(chapter, parameters=chapter.parameters | own), []
    for text in ("1", "2 images", "2 images"):
        (tmp_path / "data" / "image.png").write_text(text)
        (tmp_path / "runs").mkdir(exist_ok=True)  # where the chapter writes
        os.utime(tmp_path / "data" / "image.png", (0, 0))
        found.append(chapter_fingerprint(chapter))
        (tmp_path / "runs" / text).write_text(text)
    assert found[0] != found[1] == found[2]


def test_the_fingerprint_changes_with_the_package(executed, monkeypatch):
    chapter = executed[0].chapters[0]
    before = chapter_fingerprint(chapter)
    monkeypatch.setattr("selfsim.publish.digests.page_digest", lambda: "changed")
    assert chapter_fingerprint(chapter) != before


@pytest.mark.long
@pytest.mark.skipif(os.name != "posix", reason="elsewhere there is one way")
@pytest.mark.parametrize("how", ["fork", "spawn", ""])
def test_modules_are_imported_once_where_a_kernel_is_a_fork(tmp_path, monkeypatch, how):
    monkeypatch.setattr("selfsim.publish.kernels.HOW", how)
    write_notebook(
        tmp_path / "tiny.ipynb", 'import json, os, sys; print(json.dumps(["turtledemo" in sys.modules, os.getppid()]))'
    )
    chapters = "chapters: {a: {notebook: tiny.ipynb}, b: {notebook: tiny.ipynb}}\n"
    (tmp_path / "runs.yml").write_text(f"imports: [turtledemo, no_such_module]\n{chapters}presets: {{quick: {{}}}}\n")
    pages = execute(read_run_list(tmp_path / "runs.yml", "quick"), tmp_path / "out", progress=False)
    (imported, parent), other = map(printed, pages)
    assert imported == (how == "fork")
    assert (parent == os.getpid()) == (how == "")
    assert other == [imported, parent]


@pytest.mark.long
def test_a_failing_cell_ends_the_run_but_not_the_chapter_under_way(tmp_path, capsys):
    write_notebook(
        tmp_path / "tiny.ipynb",
        "import os, pathlib, psutil, time\n"
        f"bad = pathlib.Path({str(tmp_path / 'bad')!r})\n"
        "if name == 'bad':\n    bad.write_text(str(os.getpid()))\n    raise KeyError('gone')\n"
        "while not bad.exists() or psutil.pid_exists(int(bad.read_text())):\n    time.sleep(0.1)\n"
        "time.sleep(1.5)",
    )
    (tmp_path / "runs.yml").write_text(
        "chapters:\n"
        "  bad: {notebook: tiny.ipynb, parameters: {name: bad}}\n"
        "  good: {notebook: tiny.ipynb}\n"
        "  never: {notebook: tiny.ipynb}\n"
        "presets: {quick: {}}\n"
    )
    run_list, out = read_run_list(tmp_path / "runs.yml", "quick"), tmp_path / "out"
    with pytest.raises(ChapterError) as caught:
        execute(run_list, out, jobs=2)
    message = str(caught.value)
    assert message.startswith(f"chapter 'bad': cell 3 of {tmp_path / 'tiny.ipynb'} failed\n\nimport os, pathlib")
    assert message.endswith("KeyError: 'gone'")
    assert "\x1b" not in message
    assert caught.value.death == ""
    assert tree(out) == {"good.ipynb", ".lock"}
    assert "bad: failed in " in capsys.readouterr().err


@pytest.mark.long
def test_a_kernel_that_dies_is_a_failed_chapter(tmp_path):
    write_notebook(tmp_path / "tiny.ipynb", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    (tmp_path / "runs.yml").write_text("chapters: {a: {notebook: tiny.ipynb}}\npresets: {quick: {}}\n")
    with pytest.raises(ChapterError, match=r"chapter 'a': cell 3 of .*tiny\.ipynb failed(?s:.*)Kernel died") as caught:
        execute(read_run_list(tmp_path / "runs.yml", "quick"), tmp_path / "out", progress=False)
    assert caught.value.death == "kernel"
    assert tree(tmp_path / "out") == {".lock"}


def test_any_other_error_of_a_chapter_ends_the_run_too(tmp_path, monkeypatch):
    def broken(*_):
        raise OSError("no space left")

    write_notebook(tmp_path / "tiny.ipynb", "1")
    (tmp_path / "runs.yml").write_text("chapters: {a: {notebook: tiny.ipynb}}\npresets: {quick: {}}\n")
    monkeypatch.setattr("selfsim.publish.runner.run_chapter", broken)
    with pytest.raises(ChapterError, match="chapter 'a': OSError: no space left"):
        execute(read_run_list(tmp_path / "runs.yml", "quick"), tmp_path / "out", progress=False)


@pytest.mark.skipif(os.name != "posix", reason="elsewhere kernels are started one by one")
def test_everybody_who_waits_for_a_kernel_hears_that_the_server_died(tmp_path):
    with KernelServer([], environment=os.environ, log=tmp_path / "log") as server:
        server._process.kill()
        for _ in range(2):
            with pytest.raises(RuntimeError, match="the process that starts kernels died"):
                server.start([sys.executable, "-m", "this"])


def test_jobs_must_be_positive_and_one_run_writes_at_a_time(executed, tmp_path):
    run_list, out, _ = executed
    with pytest.raises(ValueError, match="jobs: got 0, need an integer of at least 1"):
        execute(run_list, out, jobs=0)
    pytest.importorskip("fcntl", reason="Windows has no lock of this kind")
    with locked_directory(out), pytest.raises(BlockingIOError, match="another process writes here"):
        execute(run_list, out, progress=False)


def test_a_page_that_is_not_ours_is_refused(executed, tmp_path):
    run_list, *_ = executed
    mine = write_notebook(tmp_path / "first.ipynb", "'my own notes'")
    before = mine.read_bytes()
    with pytest.raises(FileExistsError, match=r"first\.ipynb: selfsim did not make this file"):
        execute(run_list, tmp_path, progress=False)
    assert mine.read_bytes() == before
    assert tree(tmp_path) == {"first.ipynb", ".lock"}


RUN = """\
import sys
from pathlib import Path
from selfsim.publish.run_list import read_run_list
from selfsim.publish import digests, runner
digests.page_digest = lambda: "unchanged"
folder = Path(sys.argv[1])
runner.execute(read_run_list(folder / "runs.yml", "quick"), folder / "out", jobs=1)
"""


@pytest.mark.skipif(os.name != "posix", reason="signals of this kind are POSIX")
@pytest.mark.long
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_after_a_kill_no_process_is_left_and_finished_chapters_are_kept(tmp_path, how):
    pids = tmp_path / "pids"
    # Busy without a break for other threads: what ends it must not need its help.
    cell = (
        f"import os, pathlib\nwith open({str(pids)!r}, 'a') as f: f.write(f'{{name}} {{os.getpid()}}\\n')\n"
        f"if name == 'slow' and not pathlib.Path({str(tmp_path / 'go')!r}).exists(): sum(range(10**12))"
    )
    write_notebook(tmp_path / "tiny.ipynb", cell)
    (tmp_path / "runs.yml").write_text(
        "chapters:\n"
        "  fast: {notebook: tiny.ipynb}\n"
        "  slow: {notebook: tiny.ipynb, parameters: {name: slow}}\n"
        "presets: {quick: {}}\n"
    )

    def started():
        return dict(line.split() for line in pids.read_text().splitlines()) if pids.exists() else {}

    runner = subprocess.Popen(
        [sys.executable, "-c", RUN, str(tmp_path)], start_new_session=True, stderr=subprocess.DEVNULL
    )
    try:
        assert wait_until(lambda: "slow" in started() or runner.poll() is not None, 60)
        assert runner.poll() is None
        runner.send_signal(how)
        assert runner.wait(timeout=20) != 0
    finally:
        runner.kill()
        runner.wait()
    kernel = int(started()["slow"])
    assert wait_until(lambda: not is_running(kernel), 10)
    assert (tmp_path / "out" / "fast.ipynb").is_file()
    assert not (tmp_path / "out" / "slow.ipynb").exists()
    if how == signal.SIGINT:
        return
    (tmp_path / "go").touch()
    subprocess.run([sys.executable, "-c", RUN, str(tmp_path)], check=True, timeout=120, capture_output=True)
    assert [line.split()[0] for line in pids.read_text().splitlines()] == ["mlp", "slow", "slow"]
    assert tree(tmp_path / "out") == {"fast.ipynb", "slow.ipynb", ".lock"}


@pytest.mark.long
def test_a_chapter_waits_for_those_it_reads_from_and_is_made_anew_with_them(tmp_path):
    write_notebook(tmp_path / "a.ipynb", "import pathlib, time; time.sleep(1); pathlib.Path(name).write_text('made')")
    write_notebook(tmp_path / "b.ipynb", "import pathlib; print(pathlib.Path(name).read_text())")
    text = """\
chapters:
  reads: {notebook: b.ipynb, parameters: {name: FILE}, after: [writes]}
presets:
  quick: {jobs: 2}
"""
    runs, file = tmp_path / "runs.yml", tmp_path / "made.txt"
    writes = "chapters:\n  writes: {notebook: a.ipynb, parameters: {name: FILE}}\n"
    runs.write_text((writes + text.partition("\n")[2]).replace("FILE", str(file)))
    execute(read_run_list(runs, "quick"), tmp_path / "out", progress=False)
    made = (tmp_path / "out" / "reads.ipynb").stat().st_mtime_ns
    execute(read_run_list(runs, "quick"), tmp_path / "out", progress=False)
    assert (tmp_path / "out" / "reads.ipynb").stat().st_mtime_ns == made
    runs.write_text(runs.read_text().replace("a.ipynb, parameters: {", "a.ipynb, parameters: {epochs: 4, "))
    execute(read_run_list(runs, "quick"), tmp_path / "out", progress=False)
    assert (tmp_path / "out" / "reads.ipynb").stat().st_mtime_ns > made


@pytest.mark.long
def test_a_page_that_reads_runs_is_made_again_with_others_and_not_for_its_own(tmp_path):
    train = "import pathlib; p = pathlib.Path(runs, name); p.mkdir(parents=True); (p / 'SHA256SUMS').touch()"
    write_notebook(tmp_path / "a.ipynb", train, parameters=PARAMETERS + 'runs: str = ""\n')
    chapters = "".join(
        f"  {name}: {{notebook: a.ipynb, parameters: {{name: {name}}}{after}}}\n"
        for name, after in (("mlp", ""), ("pvt", ", after: [mlp]"), ("vgg", ", after: [mlp, pvt]"))
    )
    (tmp_path / "runs.yml").write_text(f"chapters:\n{chapters}presets:\n  quick: {{jobs: 2}}\n")

    def made(*only):
        read = read_run_list(
            tmp_path / "runs.yml", "quick", only=only or None, defaults={"runs": str(tmp_path / "runs")}
        )
        before = {page.stem: page.stat().st_mtime_ns for page in (tmp_path / "out").glob("*.ipynb")}
        pages = execute(read, tmp_path / "out", progress=False)
        return [page.stem for page in pages if page.stat().st_mtime_ns != before.get(page.stem)]

    assert made() == ["mlp", "pvt", "vgg"]
    assert made() == []
    (tmp_path / "runs" / "resnet34").mkdir()
    assert made() == []  # unfinished
    (tmp_path / "runs" / "resnet34" / "SHA256SUMS").touch()
    for name in ("pvt", "vgg"):  # what a training chapter would take as it is
        (tmp_path / "runs" / name / "SHA256SUMS").unlink()
        (tmp_path / "runs" / name).rmdir()
    assert made("vgg") == ["vgg"]


@pytest.mark.long
def test_a_cell_that_hangs_fails_after_its_time(tmp_path):
    write_notebook(tmp_path / "tiny.ipynb", "import time; time.sleep(600)")
    (tmp_path / "runs.yml").write_text("chapters: {a: {notebook: tiny.ipynb}}\npresets: {quick: {}}\n")
    run_list = read_run_list(tmp_path / "runs.yml", "quick")
    with pytest.raises(ChapterError, match=r"cell 3 of .*(?s:.*)TimeoutError: the cell took longer than 1 s") as caught:
        execute(run_list, tmp_path / "out", cell_timeout=1, progress=False)
    assert caught.value.death == ""


@pytest.mark.long
def test_cells_for_a_parameter_that_is_not_given_are_left_out(tmp_path):
    source = nbformat.read(write_notebook(tmp_path / "tiny.ipynb", "print('with')"), as_version=4)
    source.cells[-1].metadata["tags"] = ["only-with-rates"]
    nbformat.write(source, tmp_path / "tiny.ipynb")
    (tmp_path / "runs.yml").write_text(RUNS.replace("{name: vit}", "{rates: [1.0]}"))
    pages = execute(read_run_list(tmp_path / "runs.yml", "quick"), tmp_path / "out", progress=False)
    assert ["print('with')" in page.read_text() for page in pages] == [False, True]
