"""Threads, forks, the GIL, backends."""

import multiprocessing
import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

import tritgemm


def product(packed, x):
    return packed.gemm_i8(x).tobytes()


@pytest.fixture
def large(rng):
    """Large enough for the pool."""
    packed = tritgemm.Packed.from_trits(rng.integers(-1, 2, (1024, 1024), dtype=np.int8))
    return packed, rng.integers(-128, 128, (64, 1024), dtype=np.int8)


def run_python(code, **variables):
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_number_of_threads(large, defaults):
    expected = product(*large)
    for threads in (1, 2, 5):
        tritgemm.set_num_threads(threads)
        assert tritgemm.get_num_threads() == threads
        assert product(*large) == expected
    for bad in (0, 4097):
        with pytest.raises(tritgemm.TritgemmError, match=f"{bad} threads, expected 1 to 4096"):
            tritgemm.set_num_threads(bad)
    assert tritgemm.get_num_threads() == 5


def test_threads_by_the_environment():
    code = "import tritgemm; print(tritgemm.get_num_threads())"
    assert run_python(code, TRITGEMM_NUM_THREADS="3").stdout.strip() == "3"
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    assert 1 <= int(run_python(code, TRITGEMM_NUM_THREADS="").stdout) <= cpus
    for bad in ("0", "-1", "many", "99999"):
        result = run_python(code, TRITGEMM_NUM_THREADS=bad)
        assert f"TRITGEMM_NUM_THREADS is `{bad}`, expected a number from 1" in result.stderr


def in_child(connection, packed, x):
    tritgemm.set_num_threads(tritgemm.get_num_threads())
    connection.send(product(packed, x))
    connection.close()


def without_setting(connection, packed, x):
    connection.send(product(packed, x))
    connection.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("target", [in_child, without_setting])
def test_a_forked_child_makes_threads_of_its_own(large, defaults, target):
    """The parent's pool exists when it forks, and a product runs in another
    thread: the child has neither."""
    tritgemm.set_num_threads(2)
    expected = product(*large)
    stop = threading.Event()

    def busy():
        while not stop.is_set():
            product(*large)

    worker = threading.Thread(target=busy)
    worker.start()
    try:
        context = multiprocessing.get_context("fork")
        for _ in range(5):
            ours, theirs = context.Pipe(duplex=False)
            child = context.Process(target=target, args=(theirs, *large))
            child.start()
            theirs.close()
            assert ours.poll(30), "the child hangs"
            assert ours.recv() == expected
            child.join(30)
            assert child.exitcode == 0
    finally:
        stop.set()
        worker.join()
    assert product(*large) == expected, "the parent's own still works"


def test_the_gil_is_released(defaults, rng):
    """While one thread multiplies, another one runs Python code."""
    tritgemm.set_num_threads(1)
    tritgemm.pin("scalar")
    packed = tritgemm.Packed.from_trits(rng.integers(-1, 2, (2048, 4096), dtype=np.int8))
    x = np.ones((64, 4096), np.int8)
    span = []

    def multiply():
        start = time.perf_counter()
        packed.gemm_i8(x)
        span.extend((start, time.perf_counter()))

    worker = threading.Thread(target=multiply)
    ticks = []
    worker.start()
    while worker.is_alive():
        ticks.append(time.perf_counter())
    start, end = span
    margin = (end - start) / 4
    inside = [tick for tick in ticks if start + margin < tick < end - margin]
    assert len(inside) > 10, (len(ticks), end - start)


def test_many_python_threads_at_once(large, defaults):
    tritgemm.set_num_threads(2)
    expected = product(*large)
    results = []
    threads = [
        threading.Thread(target=lambda: results.extend(product(*large) for _ in range(5)))
        for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [expected] * 30


def until(seen, seconds=30):
    """Calls `seen` until it says so, with time for other threads between."""
    deadline = time.monotonic() + seconds
    while not seen():
        assert time.monotonic() < deadline, "never seen"
        time.sleep(0.001)


def busy(call):
    """Whether another call has what `call` needs."""
    try:
        call()
    except tritgemm.OverlapError as error:
        assert "a call that is running uses these activations" in str(error)
        return True
    return False


@pytest.mark.parametrize("routed", [False, True])
def test_activations_in_use_are_not_prepared_again(defaults, rng, routed):
    """Neither waits for the other: a call that finds them in use is an error."""
    tritgemm.set_num_threads(1)
    tritgemm.pin("scalar")
    layer = tritgemm.Linear(tritgemm.Packed.from_trits(rng.integers(-1, 2, (1024, 2048), dtype=np.int8)))
    x = rng.standard_normal((32, 2048), dtype=np.float32)
    many = rng.standard_normal((1024, 2048), dtype=np.float32)
    experts = tritgemm.Experts([layer])

    def prepare(x, **into):
        if not routed:
            return layer.prepare_int8(x, **into)
        return experts.prepare_int8(x, np.arange(len(x)), np.array([len(x)]), **into)

    def forward():
        return experts.forward(prepared) if routed else layer.forward_int8(prepared)

    prepared = prepare(x)
    expected = forward().tobytes()
    stop = threading.Event()
    results = []

    def run(call):
        while not stop.is_set():
            busy(call)
            time.sleep(0.001)

    def during(call, seen):
        stop.clear()
        worker = threading.Thread(target=run, args=(call,))
        worker.start()
        try:
            until(seen)
        finally:
            stop.set()
            worker.join()

    during(lambda: results.append(forward().tobytes()), lambda: busy(lambda: prepare(x, into=prepared)))
    assert set(results) <= {expected}
    rows = (lambda: prepared.rows) if routed else (lambda: prepared.shape)
    for reader in (forward, rows):
        prepare(x, into=prepared)
        during(lambda: prepare(many, into=prepared), lambda reader=reader: busy(reader))
    # Nothing stays in use.
    prepare(x, into=prepared)
    assert forward().tobytes() == expected


def test_threads_share_prepared_activations(rng, defaults):
    tritgemm.set_num_threads(2)
    layers = [
        tritgemm.Linear(tritgemm.Packed.from_trits(rng.integers(-1, 2, (512, 1024), dtype=np.int8)))
        for _ in range(3)
    ]
    x = layers[0].prepare_int8(rng.standard_normal((32, 1024), dtype=np.float32))

    def products():
        return [y.tobytes() for y in tritgemm.forward_many_int8(layers, x)]

    expected, results = products(), []
    threads = [
        threading.Thread(target=lambda: results.extend(products() for _ in range(5))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [expected] * 20


def test_backends(defaults):
    names = tritgemm.available()
    assert names[-1] == "scalar" and len(set(names)) == len(names)
    levels = {name.partition("/")[0] for name in names}
    for name in names:
        tritgemm.pin(name)
        assert tritgemm.backend() == name
        kernels = tritgemm.kernels()
        assert set(kernels) == {"codec", "few_i8", "many_i8", "few_f32", "many_f32"}
        # A level may use the kernels of another one that runs here too.
        assert all(kernel.startswith(tuple(levels)) for named in kernels.values() for kernel in named)
        assert all(kernels.values())
    for level in levels:
        tritgemm.pin(level)
        assert tritgemm.backend().partition("/")[0] == level
    tritgemm.pin("scalar")
    assert all(isinstance(has, bool) for has in tritgemm.cpu_features().values())
    for unknown in ("sse9", "scalar/zen4", ""):
        with pytest.raises(tritgemm.IsaError, match=f"unknown instruction set `{unknown}`"):
            tritgemm.pin(unknown)
    for level in {"scalar", "avx2", "avx512", "avx512-vbmi", "neon"} - levels:
        with pytest.raises(tritgemm.IsaError, match=level):
            tritgemm.pin(level)
    assert tritgemm.backend() == "scalar", "a failed pin changes nothing"


def test_the_backend_by_the_environment():
    code = "import tritgemm; print(tritgemm.backend())"
    for name in tritgemm.available():
        assert run_python(code, TRITGEMM_ISA=name).stdout.strip() == name
    assert "unknown instruction set `mmx`" in run_python(code, TRITGEMM_ISA="mmx").stderr


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="no /proc here")
def test_threads_start_with_the_first_large_product():
    code = """
import glob, time, numpy, tritgemm
def ours():
    names = [open(path).read() for path in glob.glob("/proc/self/task/*/comm")]
    return sum(name.startswith("tritgemm-") for name in names)
counts = [ours()]
for size in (8, 4096):
    packed = tritgemm.Packed.from_trits(numpy.ones((size, size), numpy.int8))
    packed.gemm_i8(numpy.ones((1, size), numpy.int8))
    # A thread takes its name when it first runs, which may be later.
    deadline = time.monotonic() + (10 if size > 8 else 0)
    while ours() < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    counts.append(ours())
print(counts)
"""
    assert run_python(code, TRITGEMM_NUM_THREADS="3").stdout.strip() == "[0, 0, 3]"


OPENMP = """
import ctypes, glob, os, numpy, tritgemm
ctypes.CDLL("libgomp.so.1", mode=ctypes.RTLD_GLOBAL)
tritgemm._tritgemm._use_openmp()
def ours():
    names = [open(path).read() for path in glob.glob("/proc/self/task/*/comm")]
    return sum(name.startswith("tritgemm-") for name in names)
rng = numpy.random.default_rng(1)
packed = tritgemm.Packed.from_trits(rng.integers(-1, 2, (1024, 1024), dtype=numpy.int8))
x = rng.integers(-128, 128, (64, 1024), dtype=numpy.int8)
def product():
    return packed.gemm_i8(x).tobytes()
def tasks():
    return len(os.listdir("/proc/self/task"))
"""


def with_openmp(code, **variables):
    """What the code prints where the process has an OpenMP, as it has beside torch."""
    result = run_python(OPENMP + code, **variables)
    if "libgomp.so.1: cannot open" in result.stderr:
        pytest.skip("no libgomp here")
    assert not result.stderr, result.stderr
    return result.stdout.split()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="OpenMP is taken on Linux alone")
class TestOpenMp:
    def test_products_run_on_its_threads(self):
        code = """
tritgemm.set_num_threads(1)
expected, before = product(), tasks()
for threads in (2, 3, 4096):
    tritgemm.set_num_threads(threads)
    assert product() == expected
    print(tasks() - before, ours())
"""
        # Never more than its own loops have.
        assert with_openmp(code, OMP_NUM_THREADS="3") == ["1", "0", "2", "0", "2", "0"]

    def test_their_number_is_its_own(self):
        code = "print(tritgemm.get_num_threads())"
        both = {"OMP_NUM_THREADS": "3", "TRITGEMM_NUM_THREADS": ""}
        assert with_openmp(code, **both) == ["3"]
        assert with_openmp(code, **both | {"TRITGEMM_NUM_THREADS": "5"}) == ["5"]

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
    @pytest.mark.parametrize("threads", [1, 2])
    def test_a_forked_child_has_threads_of_its_own(self, threads):
        code = f"""
import warnings
warnings.simplefilter("ignore")
tritgemm.set_num_threads(2)
expected = product()
child = os.fork()
if child == 0:
    tritgemm.set_num_threads({threads})
    os._exit(0 if product() == expected else 1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), product() == expected)
"""
        assert with_openmp(code) == ["0", "True"]

    def test_python_threads_at_once(self):
        code = """
import threading
expected, results = product(), []
threads = [threading.Thread(target=lambda: results.extend(product() for _ in range(5))) for _ in range(4)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print(results == [expected] * 20)
"""
        assert with_openmp(code, OMP_NUM_THREADS="2", TRITGEMM_NUM_THREADS="") == ["True"]


def test_exceptions_are_value_errors():
    for name in ("Shape", "Encoding", "Quantization", "Isa", "PanelFile", "Overlap"):
        kind = getattr(tritgemm, f"{name}Error")
        assert issubclass(kind, tritgemm.TritgemmError) and issubclass(kind, ValueError)
        assert kind.__module__ == "tritgemm"
