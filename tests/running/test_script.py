"""A script run by ``execute`` beside the same script run by Python itself: nothing differs."""

import subprocess
import sys
import textwrap

import pytest

from gradscope.errors import UsageError
from gradscope.running.script import Script, refuse_missing

DRIVER = """
import os, signal, sys
from gradscope.running.script import INTERRUPTED, Script, execute, uncaught
module = sys.argv[1] == "-m"
target, *arguments = sys.argv[2 if module else 1:]
status = 0
try:
    execute(Script(target, tuple(arguments), module=module))
except BaseException as error:
    status = uncaught(error)
assert "torch" not in sys.modules
if status == INTERRUPTED:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGINT)
sys.exit(status)
"""


@pytest.fixture
def both(tmp_path):
    """Run words behind ``python`` and behind the driver; give both results."""
    driver = tmp_path / "apart" / "driver.py"
    driver.parent.mkdir()
    driver.write_text(DRIVER)
    here = tmp_path / "here"
    here.mkdir()

    def run(files, *words):
        for name, text in files.items():
            file = here / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(textwrap.dedent(text))
        results = []
        for before in ([], [str(driver)]):
            done = subprocess.run(
                [sys.executable, *before, *words], cwd=here, capture_output=True, text=True,
                stdin=subprocess.DEVNULL, timeout=60, check=False,
            )  # fmt: skip
            results.append((done.returncode, done.stdout, done.stderr))
        return results

    return run


SHOW = """
    import inspect, os, pickle, sys
    class Thing: pass
    def function(): pass
    main = sys.modules["__main__"]
    print([name for name in vars(main) if name.startswith("__")])
    print(__name__, __file__, __package__, __spec__ and __spec__.name, __doc__, __annotations__)
    print(type(__loader__).__name__, __loader__.name, __cached__)
    print(sys.argv, sys.path, os.getcwd(), vars(main) is globals())
    print(pickle.loads(pickle.dumps(Thing())).__class__ is Thing, pickle.dumps(function))
    print(inspect.getsource(Thing), inspect.getsourcefile(function))
"""
FAIL = """
    def inner(n):
        try:
            return [1][n]
        except IndexError as error:
            raise ValueError("with a cause") from error
    print("printed before")
    inner(3)
"""


@pytest.mark.parametrize(
    "words",
    [
        ("show.py",),
        ("./show.py", "--lr", "0.1", "-m", "--", "x y"),
        ("sub/../show.py",),
        ("sub/show.py", "a"),
        ("link.py",),
        ("-m", "show"),
        ("-m", "sub.show", "--report", "x"),
        ("-m", "sub"),
        ("sub",),
    ],
)
def test_what_a_script_sees_of_itself(both, words, tmp_path):
    (tmp_path / "here" / "link.py").symlink_to("sub/show.py")
    files = {"show.py": SHOW, "sub/show.py": SHOW, "sub/__init__.py": "", "sub/__main__.py": SHOW}
    plain, ours = both(files, *words)
    assert plain[0] == 0, plain
    assert "True b" in plain[1]
    assert ours == plain


@pytest.mark.parametrize(
    ("text", "status"),
    [
        (FAIL, 1),
        ("import sys; sys.exit()", 0),
        ("import sys; sys.exit(7)", 7),
        ("import sys; sys.exit(-1)", 255),
        ("import sys; sys.exit('could not read the data')", 1),
        ("import sys; print('out'); sys.exit(['a'])", 1),
        ("raise SystemExit(True)", 1),
        ("raise KeyboardInterrupt", -2),
        ("raise ExceptionGroup('both', [ValueError(1), KeyError('k')])", 1),
        ("import sys\nx = (\n", 1),
        ("import not_there_at_all", 1),
        ("import sys\nsys.excepthook = lambda *a: print('mine', a[1])\n1 / 0", 1),
        ("import sys\nsys.excepthook = lambda *a: [][1]\n1 / 0", 1),
        ("import os; os._exit(9)", 9),
        ("import os, signal; os.kill(os.getpid(), signal.SIGTERM)", -15),
    ],
)
def test_how_a_script_ends(both, text, status):
    plain, ours = both({"train.py": text}, "train.py")
    assert plain[0] == status
    if "[][1]" in text:  # Python prints the hook's own frame first; the words are the same
        assert "Error in sys.excepthook:" in ours[2]
        assert ours[2].splitlines()[-1] == plain[2].splitlines()[-1]
        ours = (*ours[:2], plain[2])
    assert ours == plain


def test_the_traceback_of_a_module_is_the_same_too(both):
    plain, ours = both({"pack/__init__.py": "", "pack/train.py": FAIL}, "-m", "pack.train")
    assert plain[0] == 1
    assert "_run_module_as_main" in plain[2]
    assert ours == plain


def test_threads_atexit_and_spawned_processes_come_in_the_same_order(both):
    text = """
        import atexit, multiprocessing, threading, time
        def work(n):
            print("child", n, __name__, flush=True)
        def late():
            time.sleep(0.3)
            print("thread", flush=True)
        if __name__ == "__main__":
            atexit.register(print, "atexit first registered", flush=True)
            atexit.register(print, "atexit second registered", flush=True)
            context = multiprocessing.get_context("spawn")
            process = context.Process(target=work, args=(3,))
            process.start()
            process.join()
            threading.Thread(target=late).start()
            print("end of the script", flush=True)
    """
    plain, ours = both({"train.py": text}, "train.py")
    assert plain[1].splitlines() == [
        "child 3 __mp_main__", "end of the script", "thread",
        "atexit second registered", "atexit first registered",
    ]  # fmt: skip
    assert ours == plain


def test_a_file_that_is_not_there_is_told_before(tmp_path):
    (tmp_path / "there.py").write_text("")
    refuse_missing(Script(str(tmp_path / "there.py")))
    refuse_missing(Script("any.module", module=True))
    with pytest.raises(UsageError, match=r"there is no file '.*nope\.py'"):
        refuse_missing(Script(str(tmp_path / "nope.py")))
