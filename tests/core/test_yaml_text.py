"""Strangers' YAML: nothing runs, nothing hangs, and each is refused in one line wherever it is read."""

from itertools import pairwise

import pytest

from abd_hub.cli import main
from abd_hub.core.errors import InputError
from abd_hub.core.yaml_text import MOST_CHARACTERS, YamlError, read_yaml
from abd_hub.publish import bank_export
from abd_hub.publish.front_matter import front_matter

LEVELS = "abcdefghi"
BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in pairwise(LEVELS)
)
HOSTILE = {
    "object": "seed: !!python/object/apply:builtins.open ['{marker}', 'w']\n",
    "name": "seed: !!python/name:os.system ''\n",
    "other-tag": "seed: !mine 1\n",
    "no-bool": "seed: !!bool maybe\n",
    "no-int": "seed: !!int ''\n",
    "no-time": "seed: !!timestamp foo\n",
    "no-date": "seed: 2024-13-45\n",
    "digits": f"seed: {'9' * 5000}\n",
    "deep": f"seed: {'[' * 3000}\n",
    "key": "? {a: b}\n: c\n",
    "merge": "<<: 3\n",
    "nul": "seed: \x00\n",
    "itself": "&a [*a]\n",
    "bomb": BOMB,
    "long": "# " + "x" * MOST_CHARACTERS,
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_refused_wherever_it_is_read(tmp_path, capsys, kind):
    marker = tmp_path / "ran"
    text = HOSTILE[kind].replace("{marker}", str(marker))
    with pytest.raises(YamlError) as caught:
        read_yaml(text)
    assert "\n" not in str(caught.value)
    file = tmp_path / "config.yaml"
    file.write_text(text)
    for command in ("distill", "poison"):
        capsys.readouterr()
        assert main([command, "--config", str(file)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert f"config: {file} is not valid YAML" in line
    assert front_matter(f"---\n{text}---\n") == {}
    with pytest.raises(InputError, match="cannot be read"):
        bank_export.read_bank(tmp_path)
    assert not marker.exists()


def test_aliases_of_a_person_s_own_stay_possible():
    found = read_yaml("base: &base {seed: 1}\nother: {<<: *base, rounds: 2}\nagain: [*base, *base]\n")
    assert found["other"] == {"seed": 1, "rounds": 2}
    assert found["again"] == [{"seed": 1}] * 2


def test_an_endless_file_is_read_no_further(capsys):
    assert main(["distill", "--config", "/dev/zero"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "config: /dev/zero is not valid YAML: it has more than 2,000,000 characters" in line
