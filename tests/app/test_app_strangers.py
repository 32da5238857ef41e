"""What a stranger sends to the app to do harm: pictures, requests, addresses, names."""

import io
import json
import re
import shutil
import socket
import struct
import urllib.error
import urllib.request
import zlib
from pathlib import Path

import forked
import pytest
import torch
from app_server import HOSTILE, LINK, MODELS, PICTURE, SCRIPT, hostile_folder, serving
from app_visits import (
    answer_without_client,
    as_data,
    as_file,
    ask,
    ask_run,
    data_address,
    form,
    painted,
    png,
    post,
    save_digit,
)
from gradio_client import Client
from PIL import Image


def gif(canvas, frame, count):
    """A GIF whose frames are of one size and its canvas of another; each frame's data is one clear code."""
    screen = struct.pack("<HHBBB", *canvas, 0x80, 0, 0) + bytes(6)
    one = b"," + struct.pack("<HHHHB", 0, 0, *frame, 0) + b"\x02\x02\x4c\x01\x00"
    return b"GIF89a" + screen + one * count + b";"


def webp(side):
    """An animation of a canvas far larger than its one frame."""

    def chunk(kind, data):
        return kind + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)

    small = io.BytesIO()
    Image.new("RGB", (8, 8)).save(small, "WEBP", lossless=True)
    edge = (side - 1).to_bytes(3, "little")
    frame = bytes(6) + (7).to_bytes(3, "little") * 2 + (100).to_bytes(3, "little") + b"\0"
    body = chunk(b"VP8X", b"\x02\0\0\0" + edge * 2) + chunk(b"ANIM", bytes(6))
    body += chunk(b"ANMF", frame + small.getvalue()[12:])
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def jpeg_of_many_scans(side, count):
    """A progressive JPEG that goes over the whole picture ``count`` times more than it needs to."""
    made = io.BytesIO()
    Image.new("L", (side, side)).save(made, "JPEG", progressive=True)
    data = made.getvalue()
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * count + b"\xff\xd9"


def test_drawings_that_are_none_are_refused(app, uploaded, tmp_path):
    many = png(8, 8, tmp_path, "text.png", *[(b"zTXt", b"a\0\0" + zlib.compress(bytes(20_000_000), 9))] * 2)
    huge = png(12_000, 9_000, tmp_path)
    files = [data_address(painted())[:-40], *map(as_data, (many, huge, MODELS / "abd" / "config.json"))]
    for given in (
        None,
        5,
        ["x"],
        "x",
        "/etc/passwd",
        "data:image/png;base64,%%%",
        "data:text/html,x",
        *files,
    ):
        said = answer_without_client(app[1], uploaded, "drawn", 0, None, None, None, None, given)
        assert "event: error" in said and '"error": "drawn: ' in said, (str(given)[:50], said)
    said = answer_without_client(app[1], uploaded, "drawn", 0, None, None, 7, None, data_address(painted()))
    assert "strength 7 must be" in said


def bombs(folder):
    """Small files that would take gigabytes, or minutes."""
    many = zlib.compress(bytes(50_000_000), 9)
    (folder / "canvas.gif").write_bytes(gif((60_000, 60_000), (8, 8), 20_000))
    (folder / "frame.gif").write_bytes(gif((8, 8), (60_000, 60_000), 20_000))
    (folder / "canvas.webp").write_bytes(webp(16_384))
    (folder / "scans.jpg").write_bytes(jpeg_of_many_scans(2_000, 4_000))
    for kind, data in (
        (b"zTXt", b"a\0\0" + many),
        (b"iTXt", b"a\0\1\0\0\0" + many),
        (b"iCCP", b"a\0\0" + many),
    ):
        png(8, 8, folder, f"{kind.decode()}.png", *[(kind, data)] * 20)
    return ["canvas.gif", "frame.gif", "canvas.webp", "scans.jpg", "zTXt.png", "iTXt.png", "iCCP.png"]


def bad_files(folder):
    (folder / "svg.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"/>')
    (folder / "svg.png").write_text('<svg xmlns="http://www.w3.org/2000/svg"/>')
    (folder / "text.png").write_text("no picture")
    (folder / "empty.png").write_bytes(b"")
    whole = (MODELS / "plain" / "samples" / "training_images.png").read_bytes()
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    Image.new("I;16", (8, 8)).save(folder / "deep.png")
    png(12_000, 9_000, folder)
    png(2_001, 2_000, folder, "just_too_big.png")
    return [
        "svg.svg",
        "svg.png",
        "text.png",
        "empty.png",
        "cut.png",
        "deep.png",
        "big.png",
        "just_too_big.png",
        *bombs(folder),
    ]


def memory(process):
    """Largest resident size so far in MB."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) / 1000


def test_bad_uploads_are_refused_and_the_app_lives_on(app, digits, tmp_path):
    client, _, process = app
    good = save_digit(digits, 5, tmp_path)[0]
    ask(client, good)
    before = memory(process)
    for name in bad_files(tmp_path):
        with pytest.raises(Exception, match=r"^image: ") as refused:
            ask(client, tmp_path / name)
        assert "\n" not in str(refused.value), name
    # The 108 megapixels would be 324 MB of RGB.
    assert memory(process) - before < 60
    assert ask(client, good)[2]["models"][0]["clean_class"] == 5


def test_too_large_an_upload_is_refused(client, tmp_path):
    (tmp_path / "large.png").write_bytes(b"\x89PNG" + bytes(3_000_000))
    with pytest.raises(Exception, match=r"(?i)size|too large|413"):
        ask(client, tmp_path / "large.png")


def test_an_animation_counts_as_its_first_frame(client, digits, tmp_path):
    file = save_digit(digits, 5, tmp_path)[0]
    frames = [Image.open(file)] + [Image.new("RGB", (8, 8), (index, 0, 0)) for index in range(200)]
    frames[0].save(tmp_path / "many.gif", save_all=True, append_images=frames[1:])
    assert ask(client, tmp_path / "many.gif")[2]["models"][0]["clean_class"] == 5


@pytest.fixture(scope="module")
def uploaded(app, digits, tmp_path_factory):
    """A digit on the server, as requests name it."""
    file = save_digit(digits, 5, tmp_path_factory.mktemp("digit"))[0]
    status, said = post(
        app[1], "/gradio_api/upload", form("5.png", file.read_bytes()), "multipart/form-data; boundary=x"
    )
    assert status == 200, said
    return as_file(json.loads(said)[0])


def test_no_address_and_no_file_of_the_server_is_read(app):
    _, address, _ = app
    sample = str(MODELS / "plain" / "samples" / "training_images.png")
    with socket.create_server(("127.0.0.1", 0)) as trap:
        trap.settimeout(0.5)
        elsewhere = f"http://127.0.0.1:{trap.getsockname()[1]}/x.png"
        # Without "meta", gradio itself does not look where a path leads.
        for given in (
            as_file(elsewhere),
            {"path": elsewhere},
            as_file(None) | {"url": elsewhere},
            as_file("http://169.254.169.254/latest/meta-data/"),
            as_file(sample),
            {"path": sample},
            {"path": "/etc/passwd"},
            as_file("/etc/passwd"),
            as_file("../../../../etc/passwd"),
            as_file("a\0b"),
        ):
            said = answer_without_client(address, given, "badnet_sq", 0, 2, 0, None)
            assert "event: error" in said and "models" not in said, given
            assert '"error": "' in said and "picture that can be read" not in said, (given, said)
        for path in (f"file={elsewhere}", f"proxy={elsewhere}", f"file={elsewhere.replace('http', 'HTTPS')}"):
            with pytest.raises(urllib.error.HTTPError):
                urllib.request.urlopen(f"{address}/gradio_api/{path}")
        with pytest.raises(TimeoutError):
            trap.accept()
    with pytest.raises(urllib.error.HTTPError) as denied:
        urllib.request.urlopen(f"{address}/gradio_api/file={MODELS / 'abd' / 'metrics.json'}")
    assert denied.value.code == 403


@pytest.mark.parametrize(
    "path", ["process_recording", "run-history/connect", "component_server", "vibe-edit"]
)
def test_what_the_page_does_not_need_is_closed(app, path):
    assert post(app[1], f"/gradio_api/{path}", b"{}")[0] == 404


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (0, "x"),
        (0, [1] * 20_000),
        (0, {"path": ["x"]}),
        (1, None),
        (1, ["badnet_sq"]),
        (1, "picture"),
        (2, None),
        (2, "0"),
        (2, -1),
        (3, "two"),
        (3, "2"),
        (3, float("nan")),
        (3, 1e308),
        (3, -(10**400)),
        (3, [2] * 20_000),
        (3, {"a": 1}),
        (4, 1e9),
        (4, True),
    ],
)
def test_values_of_the_wrong_kind_are_refused_in_words(app, uploaded, place, value):
    data = [uploaded, "badnet_sq", 0, 2, 0, None]
    data[place] = value
    said = answer_without_client(app[1], *data)
    assert "event: error" in said
    # "error": null is what gradio says of errors that it did not expect.
    assert '"error": "' in said and len(said) < 700, said


def test_an_option_that_would_take_gigabytes_is_refused(app, uploaded):
    said = answer_without_client(app[1], uploaded, "wanet", 0, 30_000, None, None)
    assert "size: &#x27;30000&#x27; is no number from 0 to 1000" in said
    assert "complete" in answer_without_client(app[1], uploaded, "wanet", 0, 1_000, None, None)


@pytest.mark.parametrize("body", [b"", b"{", b'{"data":' + b"[" * 50_000, b'{"data": "x"}', b"[]"])
def test_requests_that_are_none_are_refused(app, uploaded, body):
    assert post(app[1], "/gradio_api/call/predict", body)[0] in (400, 422)
    assert "event: error" in answer_without_client(app[1])
    assert "complete" in answer_without_client(app[1], uploaded, "badnet_sq", 0, 2, 0, None)


@pytest.mark.parametrize(
    "name", ["../../../x.png", "/tmp/x.png", "..\\..\\x.png", "..", "%2e%2e%2fx.png", "a" * 500 + ".png"]
)
def test_the_name_of_a_file_leads_nowhere_else(app, uploaded, name):
    store = Path(uploaded["path"]).parents[1]
    content = name.encode()
    status, said = post(app[1], "/gradio_api/upload", form(name, content), "multipart/form-data; boundary=x")
    if status == 200:
        place = Path(json.loads(said)[0])
        assert place.resolve().is_relative_to(store) and place.read_bytes() == content
        assert place.parent.parent == store
    else:
        assert status == 400


def held(store):
    return sum(file.stat().st_size for file in store.rglob("*") if file.is_file())


def send(address, path, header, total):
    """The first line of the answer to a body of ``total`` zeros, and how many of them were taken."""
    host, port = address.removeprefix("http://").split(":")
    sent, block = 0, bytes(1 << 20)
    with socket.create_connection((host, int(port)), timeout=300) as line:
        line.sendall(f"POST {path} HTTP/1.1\r\nHost: {host}\r\n{header}\r\n\r\n".encode())
        if "chunked" in header:
            block = f"{len(block):x}\r\n".encode() + block + b"\r\n"
        while sent < total:
            line.sendall(block)
            sent += 1 << 20
        if "chunked" in header:
            line.sendall(b"0\r\n\r\n")
        return line.makefile("rb").readline().decode()


@pytest.mark.parametrize(
    ("path", "kind", "length"),
    [
        ("upload", "multipart/form-data; boundary=x", "Content-Length: 1073741824"),
        ("upload", "multipart/form-data; boundary=x", "Transfer-Encoding: chunked"),
        ("call/predict", "application/json", "Content-Length: 134217728"),
    ],
)
def test_a_huge_upload_is_stored_nowhere(app, uploaded, path, kind, length):
    _, address, process = app
    store = Path(uploaded["path"]).parents[1]
    before, stored = memory(process), held(store)
    total = 1 << 30 if "1073741824" in length else 1 << 27
    said = send(address, f"/gradio_api/{path}", f"Content-Type: {kind}\r\n{length}", total)
    assert "413" in said
    assert memory(process) - before < 60
    assert held(store) == stored
    assert "complete" in answer_without_client(address, uploaded, "badnet_sq", 0, 2, 0, None)


def test_an_upload_that_breaks_off_leaves_nothing(app, uploaded):
    store = Path(uploaded["path"]).parents[1]
    before = held(store)
    host, port = app[1].removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as line:
        line.sendall(
            f"POST /gradio_api/upload HTTP/1.1\r\nHost: {host}\r\nContent-Length: 900000\r\n"
            "Content-Type: multipart/form-data; boundary=x\r\n\r\n".encode()
        )
        line.sendall(form("x.png", bytes(200_000))[:-6])
    assert "complete" in answer_without_client(app[1], uploaded, "badnet_sq", 0, 2, 0, None)
    assert held(store) == before


def test_names_of_strangers_are_text(tmp_path, digits):
    folder = hostile_folder(tmp_path / "model")
    with serving(folder) as (address, _):
        client = Client(address, verbose=False)
        _, cards, numbers = ask(client, save_digit(digits, 5, tmp_path)[0])
        shown = ask_run(client, "model")
        told = shown["facts"]
        page = urllib.request.urlopen(address).read().decode()
    assert numbers["labels"] == list(HOSTILE)
    assert shown["losses"]
    for text in (re.sub(r'<img src="data:image/png;base64,[A-Za-z0-9+/=]+" alt="[^"<>]*"', "", cards), told):
        assert "<script" not in text and "<img" not in text and "${" not in text and "{{" not in text
        assert "&lt;img src=x onerror=" in text
    assert "&lt;script&gt;" in cards and "\u202e" not in cards
    # In the page the names stand in the configuration, a script of JSON, which no name may end.
    assert SCRIPT not in page and PICTURE not in page
    assert LINK.split()[0] in page


def refused(*arguments):
    done = forked.run("-m", "abd_hub", "app", "--no-browser", *map(str, arguments))
    assert done.returncode == 2, done.stderr
    assert done.stdout == "" and done.stderr.startswith("abd-hub: ") and done.stderr.count("\n") == 1
    return done.stderr


def test_a_folder_with_a_pickle_is_refused(tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(MODELS / "abd", folder)
    torch.save(torch.load, folder / "pytorch_model.bin")
    assert "pickle" in refused(folder)


def test_a_port_in_use_is_refused(app):
    port = app[1].rpartition(":")[2]
    assert f"port: {port} of 127.0.0.1 is in use" in refused("--port", port)
