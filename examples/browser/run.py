"""The demo's speech detector in a browser: a folder with a page, a module without imports and an AudioWorklet."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

from rnn_export import export

SILERO = Path(__file__).parents[2] / "scripts" / "silero_vad"


def main(folder: Path = Path("out")) -> None:
    sys.path.insert(0, str(SILERO))
    import model

    folder.mkdir(exist_ok=True)
    net, example, options = model.factory()
    bundle = export(net, example, folder / "speech.rnnx", targets=("onnx", "wasm"), steps=64, force=True, **options)
    package = bundle.path / "targets" / "wasm-fp32"
    print(f"{package}: {', '.join(sorted(p.name for p in package.iterdir()))}")
    if node := shutil.which("node"):
        code = (
            f"import {{ load }} from {json.dumps((package / 'index.js').absolute().as_uri())};"
            "const model = await load(); console.log('in Node:', JSON.stringify(await model.selftest()))"
        )
        subprocess.run([node, "--input-type=module", "-e", code], check=True)
    print(f"now: rnn-export serve-web {bundle.path}, and speak")


if __name__ == "__main__":
    main()
