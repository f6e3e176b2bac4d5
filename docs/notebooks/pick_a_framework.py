# %% [markdown]
# # Pick a framework on evidence
#
# First that engines compute the same function, then how fast each is, on the machine at hand.
# The figures below are of a small net on a machine of 2 cores: take the commands, not the ranking.

# %%
import json
import os
import shlex
import subprocess
import sys

os.environ["COLUMNS"] = "110"
ENGINES = "torch,keras:tensorflow,flax"  # keras:jax and keras:torch too, if you use them


def run(line):
    """A command: what it printed as JSON."""
    words = shlex.split(line)
    assert words[0] == "resnet-parity"
    done = subprocess.run(
        [sys.executable, "-m", "resnet_parity", *words[1:], "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    print(f"$ {line}")
    return json.loads(done.stdout)


# %% [markdown]
# ## Do they agree?
#
# Random weights, norm statistics included, in float64.

# %%
check = run(f"resnet-parity check resnet20 --batch 1 --image-size 32 --engines {ENGINES}")
for pair in check["pairs"]:
    print(f"{' and '.join(pair['engines']):35} {pair['logits']['maximum']:.1e}")
assert check["holds"]

# %% [markdown]
# ## How fast is each?
#
# Each runs in a process of its own, rounds alternate, and what computes something else gets no
# speed. A figure above what this machine was measured to be able to do at most for this net is
# refused.

# %%
line = f"resnet-parity bench resnet20 --engines {ENGINES} --no-peers --batch 32"
bench = run(f"{line} --rounds 3 --seconds 0.2")
for row in bench["rows"]:
    if row["refused"]:
        print(f"{row['side']:30} refused: {row['refused']}")
        continue
    low, high = row["batch"] / row["seconds"]["high"], row["batch"] / row["seconds"]["low"]
    print(
        f"{row['side']:30} batch {row['batch']:2}: {row['images_per_second']:7,.0f} images/s "
        f"({low:,.0f} to {high:,.0f})"
    )

# %% [markdown]
# ## What an upgrade does
#
# `resnet-parity report resnet20 --speed --json > old.json` keeps all of it, and after an upgrade
# `resnet-parity report resnet20 --speed --against old.json` says what moved.
