"""What a visitor's program asks a running app, and files that it sends."""

import base64
import io
import json
import struct
import urllib.error
import urllib.request
import zlib

from abd_hub_app.images import to_picture
from gradio_client import handle_file
from PIL import Image

SQUARE = {"size": 2, "margin": 0}


def ask(client, file, trigger="badnet_sq", target=0, size=2, margin=0, strength=None):
    *pictures, cards, numbers = client.predict(
        handle_file(str(file)), trigger, target, size, margin, strength, api_name="/predict"
    )
    return pictures, cards, numbers


def save_digit(digits, label, folder):
    place = int((digits.labels == label).nonzero()[0])
    file = folder / f"{label}.png"
    to_picture(digits.pixels([place])[0], side=1).save(file)
    return file, digits.pixels([place])


def png(width, height, folder, name="big.png", *extra):
    """A valid PNG of one color, written without decoding it anywhere; extra chunks are (kind, data)."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    body = zlib.compress(b"\0" * (height * (width // 8 + 1)), 9)
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), *extra, (b"IDAT", body), (b"IEND", b"")]
    file = folder / name
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(kind, data) for kind, data in chunks))
    return file


def data_address(picture):
    made = io.BytesIO()
    picture.save(made, "PNG")
    return "data:image/png;base64," + base64.b64encode(made.getvalue()).decode()


def painted():
    """Red and half seen green: only what is at least half opaque counts as painted."""
    picture = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    picture.putpixel((7, 7), (255, 0, 0, 255))
    picture.putpixel((6, 7), (0, 255, 0, 128))
    picture.putpixel((5, 7), (0, 0, 255, 127))
    return picture


def as_data(file):
    return "data:image/png;base64," + base64.b64encode(file.read_bytes()).decode()


PARTS = ("facts", "note", "marked", "histogram", "patterns", "rates", "losses", "pictures")


def ask_run(client, name):
    """What is shown of a run, by part; None where it is hidden."""
    told = client.predict(name, api_name="/run")
    shown = dict(zip(PARTS, told, strict=True))
    return {
        part: (value.get("value") if value.get("visible", True) else None)
        if isinstance(value, dict) and "__type__" in value
        else value
        for part, value in shown.items()
    }


def post(address, path, body, kind="application/json"):
    """Status and text of the server's answer to a request of one's own."""
    request = urllib.request.Request(address + path, body, {"Content-Type": kind})
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def answer_without_client(address, *data):
    """What the server says to values as they are, as text."""
    status, said = post(address, "/gradio_api/call/predict", json.dumps({"data": data}).encode())
    assert status == 200, said
    with urllib.request.urlopen(
        f"{address}/gradio_api/call/predict/{json.loads(said)['event_id']}"
    ) as answer:
        return answer.read().decode()


def as_file(path):
    return {"path": str(path), "meta": {"_type": "gradio.FileData"}}


def form(name, content):
    """A multipart body with one file."""
    head = f'--x\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'
    return head.encode() + content + b"\r\n--x--\r\n"
