import csv
import hashlib
import socket
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import nibabel as nib
import numpy as np
import pytest

import nobrainer.utils
from nobrainer.data import samples
from nobrainer.data.samples import get_data, get_template
from nobrainer.errors import InputError

CONTENT = {
    f"sub-0{s}/mri/{name}": f"{s} {name} ".encode() * 9000
    for s in (1, 2)
    for name in ("t1.mgz", "aparc+aseg.mgz")
}
CHECKSUMS = {name: hashlib.sha256(data).hexdigest() for name, data in CONTENT.items()}
COARSE_MM = 6.0


class SampleServer(ThreadingHTTPServer):
    """Serves CONTENT; breaks off in the middle of the n-th answers it is told to."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}/"
        self.asked = Counter()
        self.break_off = set()


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        name = self.path.removeprefix("/")
        self.server.asked[name] += 1
        data = CONTENT[name]
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        breaks = (name, self.server.asked[name]) in self.server.break_off
        self.wfile.write(data[: len(data) // 2] if breaks else data)

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    with SampleServer() as running:
        thread = Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def unreachable():
    with socket.socket() as bound:  # bound, never listening: connections are refused
        bound.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{bound.getsockname()[1]}/"


def _rows(table):
    with open(table, newline="") as file:
        return list(csv.reader(file))


def _sample_files(cache):
    return {str(p.relative_to(cache)) for p in cache.rglob("*") if p.is_file()}


@pytest.mark.parametrize("source", ["auto", "remote"])
def test_remote_sample_is_downloaded_whole(tmp_path, server, source, capsys):
    sample = samples._sample(tmp_path, server.url, CHECKSUMS)
    table = samples._provide(tmp_path, source, sample, COARSE_MM)

    header, *rows = _rows(table)
    assert header == ["features", "labels"]
    names = [("t1.mgz", "aparc+aseg.mgz")] * 2
    assert [tuple(Path(p).name for p in row) for row in rows] == names
    assert [Path(row[0]).parts[-3] for row in rows] == ["sub-01", "sub-02"]
    for name, data in CONTENT.items():
        assert (tmp_path / "ds000114" / name).read_bytes() == data
    assert "public sample from 127.0.0.1" in capsys.readouterr().err


def test_cached_sample_needs_no_network(tmp_path, server, unreachable, capsys):
    first = samples._sample(tmp_path, server.url, CHECKSUMS)
    table = samples._provide(tmp_path, "remote", first, COARSE_MM)
    capsys.readouterr()
    second = samples._sample(tmp_path, unreachable, CHECKSUMS)
    assert samples._provide(tmp_path, "auto", second, COARSE_MM) == table
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("(cached)")


def test_a_damaged_cached_file_is_fetched_again(tmp_path, server):
    sample = samples._sample(tmp_path, server.url, CHECKSUMS)
    samples._provide(tmp_path, "remote", sample, COARSE_MM)
    server.asked.clear()
    name = "sub-02/mri/t1.mgz"
    (sample.abspath / name).write_bytes(b"cut short")
    samples._provide(tmp_path, "remote", sample, COARSE_MM)
    assert (sample.abspath / name).read_bytes() == CONTENT[name]
    assert set(server.asked) == {name}


def test_wrong_checksum_is_refused_and_leaves_nothing(tmp_path, server):
    wrong = CHECKSUMS | {"sub-02/mri/t1.mgz": "0" * 64}
    sample = samples._sample(tmp_path, server.url, wrong)
    sample.retry_if_failed = 0
    with pytest.raises(InputError, match=r"sub-02/mri/t1\.mgz: .*checksum.*embedded"):
        samples._provide(tmp_path, "remote", sample, COARSE_MM)
    assert _sample_files(sample.abspath) == set(list(CONTENT)[:2])


def test_a_broken_connection_is_tried_again(tmp_path, server):
    name = "sub-01/mri/aparc+aseg.mgz"
    server.break_off = {(name, 1)}
    sample = samples._sample(tmp_path, server.url, CHECKSUMS)
    samples._provide(tmp_path, "remote", sample, COARSE_MM)
    assert server.asked[name] == 2
    assert (sample.abspath / name).read_bytes() == CONTENT[name]


def test_a_connection_that_stays_broken_leaves_no_half_file(tmp_path, server):
    name = "sub-02/mri/t1.mgz"
    server.break_off = {(name, 1)}
    sample = samples._sample(tmp_path, server.url, CHECKSUMS)
    sample.retry_if_failed = 0
    with pytest.raises(InputError, match=r"sub-02/mri/t1\.mgz: the download failed"):
        samples._provide(tmp_path, "remote", sample, COARSE_MM)
    assert _sample_files(sample.abspath) == set(list(CONTENT)[:2])


def test_auto_falls_back_and_says_why(tmp_path, unreachable, capsys):
    sample = samples._sample(tmp_path, unreachable, CHECKSUMS)
    table = samples._provide(tmp_path, "auto", sample, COARSE_MM)
    (line,) = capsys.readouterr().err.splitlines()
    assert "synthetic subjects" in line
    assert "cannot be reached: ConnectionError" in line
    assert len(_rows(table)) == 11
    with pytest.raises(InputError, match=r"cannot be reached.*source='embedded'"):
        samples._provide(tmp_path, "remote", sample, COARSE_MM)


def test_a_silent_server_is_given_up_soon():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        started = time.monotonic()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        assert samples._connection_fault(url, 0.2) in (
            "no answer in 0.2 s",
            "ReadTimeout",
        )
        assert time.monotonic() - started < 1


def test_embedded_subjects_are_made_once(tmp_path, capsys):
    table = get_data(tmp_path, "embedded", resolution_mm=COARSE_MM)
    header, *rows = _rows(table)
    assert header == ["features", "labels"]
    assert len(rows) == 10
    paths = [Path(p) for row in rows for p in row]
    assert len(set(paths)) == 20
    assert all(p.is_absolute() and p.is_file() for p in paths)
    assert nib.load(rows[0][0]).header.get_zooms() == (6, 6, 6)
    assert "synthetic subjects" in capsys.readouterr().err

    paths[4].unlink()
    others = [p for p in paths if p.name.split("_")[0] != "sub-03"]
    made = [p.stat().st_mtime_ns for p in others]
    assert get_data(tmp_path, "embedded", resolution_mm=COARSE_MM) == table
    assert paths[4].is_file()
    assert [p.stat().st_mtime_ns for p in others] == made
    assert {p.name for p in Path(table).parent.iterdir()} == {
        "subjects.csv",
        *(p.name for p in paths),
    }


def test_cache_follows_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("NOBRAINER_CACHE", str(tmp_path / "from-environment"))
    table = nobrainer.utils.get_data(source="embedded", resolution_mm=COARSE_MM)
    assert Path(table).is_relative_to(tmp_path / "from-environment")


def test_unknown_source_names_the_near_miss(tmp_path):
    with pytest.raises(InputError, match="did you mean 'embedded'"):
        get_data(tmp_path, "embeded")


def test_a_cache_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"file: the data cannot be kept there"):
        get_data(tmp_path / "file", "embedded", resolution_mm=COARSE_MM)


def test_checksums_of_the_public_sample():
    checksums = samples._sample_checksums()
    assert list(checksums)[:2] == ["sub-01/mri/t1.mgz", "sub-01/mri/aparc+aseg.mgz"]
    assert len(checksums) == len(set(checksums.values())) == 20
    assert all(len(bytes.fromhex(c)) == 32 for c in checksums.values())
    assert checksums["sub-02/mri/t1.mgz"].startswith("c0fee669a34bf3b4")


def test_the_template_is_an_even_brain_of_its_usual_size():
    template = get_template()
    values = np.asarray(template.dataobj)
    assert values.dtype == np.float32
    assert (values.min(), values.max()) == (0, 1)
    # x = 0 is the middle of the brain, and the left side the mirror of the right.
    assert np.allclose(template.affine @ (98, 134, 72, 1), (0, 0, 0, 1))
    assert np.array_equal(values, values[::-1])
    assert np.count_nonzero(values) == pytest.approx(1_886_972, abs=10_000)
    assert "(C) 1993-2004 Louis Collins" in template.header["descrip"].item().decode()
