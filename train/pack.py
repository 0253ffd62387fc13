"""From a run's model to the file that ships as `builtin`: one byte a weight.

    python -m train.pack RUN/model model/weights/files/lips.safetensors --vae taesd

Then change sha256 and size_bytes of lips.safetensors in model/weights/table_data.py; both are printed.
"""

import argparse
import hashlib
import sys
from pathlib import Path

from lipforge.model.denoiser.packed import packed
from lipforge.model.trained import read_about, weights_name
from lipforge.model.weights.state_dicts import read_checkpoint_file


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--vae", help="what opens the autoencoder elsewhere, if the run was given a path")
    given = parser.parse_args()
    about = read_about(given.model)
    checkpoint = read_checkpoint_file(given.model / weights_name(about["kind"]))
    content = packed(checkpoint.tensors, {**about, "vae": given.vae or about["vae"], "step": checkpoint.global_step})
    given.out.write_bytes(content)
    sys.stdout.write(f"{given.out}: {len(content)} bytes, sha256 {hashlib.sha256(content).hexdigest()}\n")


if __name__ == "__main__":
    main()
