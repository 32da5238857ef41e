"""Pushes and pulls that meet random sequences of faults; after each, nothing is half and no token is seen."""

import contextlib
import random
import shutil
from dataclasses import dataclass
from pathlib import Path

from hub_repositories import sibling
from hub_server import NOTHING, READ, WRITE, HubServer
from hub_worker import Worker, load
from pulls import read, save_teacher
from pushes import SENT, change_record, tree
from starlette.responses import JSONResponse
from student_folder import make_folder

from abd_hub.core.folder import write_config

PUSHES = ("whoami", "validate", "create", "preupload", "lfs", "upload", "commit", "info", "head", "resolve")
PULLS = ("info", "head", "resolve", "storage")
STATUSES = (400, 401, 403, 404, 408, 409, 412, 413, 418, 422, 429, 500, 502, 503, 504, 507)
REDIRECTS = (301, 302, 303, 307, 308)
TOKENS = tuple(token.encode() for token in (READ, WRITE, NOTHING))
WIDE = 50
"""Every so many pulls the weights have 11 MB, which come in pieces."""


class FaultyHub(HubServer):
    """Also lists an older commit, lists wrong hashes, and commits something else just before a commit."""

    def __init__(self):
        super().__init__()
        self.stale = 0
        self.wrong = []
        self.meanwhile = False

    def clear(self):
        """Forgets these faults, too."""
        super().clear()
        self.stale, self.wrong, self.meanwhile = 0, [], False

    async def _info(self, repo, commit, parts, request):
        if self.stale and commit.parent:
            self.stale -= 1
            commit = repo.commits[commit.parent]
        answer = await super()._info(repo, commit, parts, request)
        if not self.wrong:
            return answer
        entries = [
            sibling(repo, p, d, "blobs" in request.query_params) for p, d in sorted(commit.files.items())
        ]
        for entry in entries:
            if entry["rfilename"] == self.wrong[0]:
                _spoil(entry)
        self.wrong = self.wrong[1:]
        found = {"sha": commit.sha, "id": repo.id, "private": repo.private, "siblings": entries}
        return JSONResponse(
            found | {"tags": [], "downloads": 0, "likes": 0, "gated": False, "disabled": False}
        )

    async def _commit(self, repo, commit, parts, request):
        if self.meanwhile and "README.md" in commit.files:
            self.meanwhile = False
            repo.commit({"notes.txt": b"theirs"}, "theirs")
            commit = repo.at(parts["rev"])
        return await super()._commit(repo, commit, parts, request)


def _spoil(entry):
    """Makes the hashes of a listed file those of another one."""
    if "blobId" in entry:
        entry["blobId"] = entry["blobId"][::-1]
    if "lfs" in entry:
        entry["lfs"] = entry["lfs"] | {"sha256": entry["lfs"]["sha256"][::-1]}


@contextlib.contextmanager
def campaign(out, seed, packages=""):
    """Yields a campaign with a Hub and a process of its own; at the end ``said`` is what the process wrote.

    ``packages`` is a folder with another version of the client, as ``pip install --target`` makes it.
    """
    shutil.rmtree(out, ignore_errors=True)
    home = Path(out).resolve() / "home"
    home.mkdir(parents=True)
    with FaultyHub() as hub:
        patient = {"HF_HUB_ETAG_TIMEOUT": "20", "HF_HUB_DOWNLOAD_TIMEOUT": "20", "TMPDIR": str(home)}
        own = hub.environment(home, HF_HUB_DISABLE_PROGRESS_BARS="1", **patient)
        paths = [packages, str(Path(__file__).parents[2]), str(Path(__file__).parent)]
        worker = Worker(own | {"PYTHONPATH": ":".join(path for path in paths if path)})
        found = Campaign(out, seed, hub, worker, home)
        yield found
        found.said = worker.close()


@dataclass
class Outcome:
    """Says how one push or pull went; ``why`` is empty where all is as it must be."""

    kind: str
    number: int
    faults: list[str]
    ended: str
    """Is "well" or "refused"; the repetition without faults always ends well."""
    why: str


class Campaign:
    """Sends a folder through a process with a client of the Hub, and fetches teachers."""

    def __init__(self, out, seed, hub, worker, home):
        self.out, self.seed, self.hub = Path(out).resolve(), seed, hub
        self.worker, self.home = worker, home
        self.folder = make_folder(self.out / "run")
        write_config(self.folder, "output_dir: run\n")
        self.teachers = [save_teacher(self.out / f"teacher{seed}", seed=seed) for seed in (3, 4)]
        self.wide = save_teacher(self.out / "wide", width=100)
        self.logits = {place: load(str(place)) for place in (*self.teachers, self.wide)}

    # ----------------------------------------------------------------------------------------- a push

    def push(self, number):
        """Pushes through faults, and then without."""
        chance = random.Random(f"{self.seed} push {number}")
        name = f"acme/push{number}"
        self.hub.forget()
        if chance.random() < 0.6:
            self._change(chance)
            done = self._push(name)
            assert done["code"] == 0, done
        self._change(chance)
        key = ("model", name)
        before = self._content(key)
        self.hub.clear()
        faults = self._draw(chance, PUSHES, SENT)
        listed = tree(self.folder)
        done = self._push(name)
        why = self._judge(done)
        left = self._content(key)
        self._quiet()
        again = self._push(name)
        after = self._content(key)
        if again["code"]:
            why.append(f"the same push again ends with {again['code']}: {again['shown'][-200:]!r}")
        if left not in (before, after):
            why.append("the repository is half")
        if done["code"] == 0 and left != after:
            why.append("a push that ended well is not there")
        if tree(self.folder) != listed:
            why.append("the folder has changed")
        why += self._whole(after or {}) + self._tokens()
        return Outcome("push", number, faults, _ended(done["code"]), "; ".join(why))

    def _change(self, chance):
        change_record(self.folder, rounds=chance.randint(1, 10**6))
        (self.folder / "samples" / "curves.png").write_bytes(chance.randbytes(50))

    def _push(self, name):
        return self.worker.ask(WRITE, command=["push", str(self.folder), name])

    def _content(self, key):
        """What is in the repository but for what others wrote; None where it is empty or not there."""
        repo = self.hub.repos.get(key)
        found = {} if repo is None else dict(repo.files)
        for others in ("notes.txt", ".gitattributes"):
            found.pop(others, None)
        return found or None

    def _whole(self, content):
        """What a whole repository does not hold; the card is made for it."""
        wanted = {name: (self.folder / name).read_bytes() for name in SENT - {"README.md"}}
        return [f"{name} is not as it was sent" for name in wanted if content.get(name) != wanted[name]]

    def _judge(self, done):
        why = []
        if done["code"] not in (0, 2) or "Traceback" in done["shown"]:
            why.append(f"ends with {done['code']}: {done['shown'][-300:]!r}")
        lines = done["shown"].splitlines()
        if done["code"] == 2 and (len(lines) != 1 or "http" in lines[0]):
            why.append(f"refuses in other words: {done['shown'][:300]!r}")
        return why

    # ----------------------------------------------------------------------------------------- a pull

    def pull(self, number):
        """Pulls through faults, and then without."""
        chance = random.Random(f"{self.seed} pull {number}")
        name = f"acme/pull{number}"
        self.hub.forget()
        repo = self.hub.repo(name, private=chance.random() < 0.5)
        wide = number % WIDE == WIDE - 1
        older, newest = [self.wide] * 2 if wide else chance.sample(self.teachers, 2)
        commits = {repo.commit(read(place)): place for place in (older, newest)}
        self.hub.redirects = chance.random() < 0.5
        repo.names_blobs = chance.random() < 0.8
        faults = self._draw(chance, PULLS, ("config.json", "model.safetensors"))
        found = self.worker.load(name, token=READ)
        why = self._same(found, commits) + self._cache(name, repo)
        ended = "refused" if "error" in found else "well"
        self._quiet()
        again = self.worker.load(name, token=READ)
        why += self._same(again, {repo.at("main").sha: newest}) + self._cache(name, repo) + self._tokens()
        if "error" in again:
            why.append(f"the same pull again is refused: {again['error']!r}")
        shutil.rmtree(self.home / "hub" / f"models--{name.replace('/', '--')}", ignore_errors=True)
        return Outcome("pull", number, faults, ended, "; ".join(why))

    def _same(self, found, commits):
        if "error" in found:
            odd = "\n" in found["error"] or "http" in found["error"] or "signature" in found["error"]
            return [f"refuses in other words: {found['error'][:300]!r}"] if odd else []
        place = commits.get(found["revision"])
        right = place and found["logits"] == self.logits[place]["logits"]
        return [] if right else ["the pulled model is another one"]

    def _cache(self, name, repo):
        """What is in the cache in part, or with other bytes."""
        why = []
        for folder in (self.home / "hub").glob(f"models--{name.replace('/', '--')}/snapshots/*"):
            files = repo.commits[folder.name].files
            for path in folder.iterdir():
                if path.exists() and path.read_bytes() != files.get(path.name):
                    why.append(f"{path.name} in the cache is not whole")
        return why

    # ---------------------------------------------------------------------------------------- faults

    def _draw(self, chance, routes, names):
        """Plants one to six faults; returns them in words."""
        return [self._plant(chance, routes, names) for _ in range(chance.randint(1, 6))]

    def _plant(self, chance, routes, names):
        route, times, hub = chance.choice(routes), chance.choice((1, 1, 1, 2, 3, 9)), self.hub
        kinds = ("status", "status", "status", "cut", "lost", "redirect", "damaged", "stale", "hash", "stall")
        kind = chance.choice((*kinds, "meanwhile") if "commit" in routes else kinds)
        name = chance.choice(sorted(names))
        match kind:
            case "status":
                status = chance.choice(STATUSES)
                hub.fail(route, status, times, retry_after=0.05 if status == 429 else None)
                return f"{route} {status} x{times}"
            case "redirect":
                status = chance.choice(REDIRECTS)
                host = chance.choice((f"localhost:{hub.port}", "stranger.example"))
                hub.fail(route, status, times, Location=f"http://{host}/storage/x?signature=secret")
                return f"{route} {status} x{times} to another host"
            case "cut" | "lost":
                hub.cut(route, times, after=chance.randint(1, 3000), later=kind == "lost")
            case "damaged":
                hub.damage(times) if route == "upload" else hub.corrupt(name, times)
            case "stale":
                hub.stale = times
            case "hash":
                hub.wrong = [name] * times
            case "stall":
                hub.stall(route, 0.05, times)
            case "meanwhile":
                hub.meanwhile = True
        return f"{kind} {name if kind in ('damaged', 'hash') else route} x{times}"

    def _quiet(self):
        """Ends the faults, and keeps what has been seen."""
        seen, strangers = list(self.hub.requests), list(self.hub.strangers)
        self.hub.clear()
        self.hub.requests += seen
        self.hub.strangers += strangers

    def _tokens(self):
        """Where a token was seen that must not be there."""
        own = f"127.0.0.1:{self.hub.port}"
        why = [
            f"the token went to {seen.host}" for seen in self.hub.requests if seen.token and seen.host != own
        ]
        if any(token in text.encode() for token in TOKENS for text in self.hub.strangers):
            why.append("the token went to a stranger")
        for path in (*self.home.rglob("*"), *self.folder.rglob("*")):
            with contextlib.suppress(FileNotFoundError):
                if path.is_file() and any(token in path.read_bytes() for token in TOKENS):
                    why.append(f"{path.name} holds a token")
        return why


def _ended(code):
    return {0: "well", 2: "refused"}.get(code, f"with {code}")
