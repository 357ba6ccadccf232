"""A keyword spotter from raw samples: trained, exported, and listening piece by piece as a microphone gives them."""

from pathlib import Path

import keywords
import torch
from words import WORDS

from rnn_export import export, load


def main(folder: Path = Path("out"), steps: int = 300, **sizes: int) -> None:
    torch.set_num_threads(1)
    net, example, options = keywords.factory(**sizes)
    keywords.train(net, steps)
    folder.mkdir(exist_ok=True)
    export(net, example, folder / "keywords.rnnx", targets=("onnx", "c"), steps=64, force=True, **options)

    sound, ends = keywords.spoken(12)
    stream, scores, before = load(folder / "keywords.rnnx").stream(), [], 0
    for piece in sound.split(1000):  # 62 ms, which no step divides: what is left waits for the next piece
        for frame in torch.from_numpy(stream.run(piece.numpy())).softmax(-1):
            scores.append(frame)
            word = int(frame.argmax())
            if word and word != before and frame[word] > 0.9:
                print(f"{len(scores) * keywords.HOP / keywords.SAMPLE_RATE:6.2f} s  {WORDS[word - 1]}")
                before = word
    said = [f"{end / keywords.SAMPLE_RATE:.2f} s {WORDS[number - 1]}" for end, number in ends if number]
    print(f"said were, ending at: {', '.join(said)}")

    with torch.no_grad():
        whole = net(sound[None])[0].softmax(-1)
    separate = float((torch.stack(scores) - whole[: len(scores)]).abs().max())
    right = keywords.words_right(torch.stack(scores).log(), ends)
    print(f"{right} of {len(ends)} words told apart\napart from the net on the whole: {separate:.1e}")
    assert separate < 1e-4


if __name__ == "__main__":
    main()
