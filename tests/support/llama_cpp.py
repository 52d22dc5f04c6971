"""What llama.cpp makes of texts and GGUF files, kept as data: an independent reader of both.

``tox -e verify`` asks it anew and compares. ``python -m tests.support.llama_cpp`` writes the data
(beside the current ones, for files whose packages are not installed).
"""

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from tokenizers import Tokenizer, models, trainers

from tests.support.checkpoints.gguf_files import TOKENS
from tests.support.checkpoints.real_files import REAL_FILES

DATA = Path(__file__).parents[1] / "checkpoint" / "data" / "llama_cpp.json"
CORPUS = Path(__file__).parents[2] / "robustness" / "corpus" / "data" / "builtin"
COMMAND = "python -m tests.support.llama_cpp"
WINDOWS, WINDOW = 2, 256  # of tokens, of each real file's corpus
ALPHABET = TOKENS[1:257]  # GPT-2's letters for bytes

TEXTS = [
    "1. item\n\n2. item\n\n10. item\n",
    "- a\n- b\n  * c\n\n    1) d\n",
    "x = [1, 22,\n\n333]\nfor i in range(10_000):\n\tprint(f'{i:>4}')\n",
    'if (a != b && c->d[3] >= 0x1F) { return "ok\\n"; } // TODO: 2024-11-30\n',
    '<div class="a">&nbsp;</div>\r\n\r\n<p>x</p>\r\n',
    "1 12 123 1234 12345 1234567 3.14159 1,000,000 1e-5 2²  ½ ٣٤ १२",
    "abc123def 123abc 4th v2.0.1 A1B2",
    "I'll don't we've they're she's he'd I'm y'all 'tis O'Neill rock'n'roll",
    "I'LL DON'T WE'VE THEY'RE SHE'S HE'D I'M it'sbad we'llow 'Tisn't",
    "camelCase PascalCase snake_case SCREAMING_CASE HTTPServer iOS",
    "Größe ÄÖÜ naïve façade Ελλάδα Привет мир ÀÉ",
    "漢字かな交じり文、カタカナ。 你好，世界！ 한국어 문장",
    "สวัสดี नमस्ते مرحبا بالعالم שלום",
    "e\u0301 n\u0303 a\u0308 \u200b \u200d \ufeff",
    "🙂👍🏽👩‍👩‍👧‍👦 🇩🇪 ✓ → ≠ € £",
    " leading  two   three    four trailing ",
    "\n\n\n\ttab\t\ttabs\n \n  \n   x\n",
    "\u00a0nbsp\u2003em\u3000ideographic\u2028line",
    "...!!! ??? --- *** ### $$$ @user #tag %d ^_^ `code` ~x~ a|b",
    "(a)[b]{c}<d>«e»“f”‘g’",
    "https://example.org/a?b=c&d=%20#e mail@example.org C:\\dir\\f.txt",
    "<|endoftext|>a <|endoftext|> b<|im_start|>user\nhi<|im_end|>\n<|end|>\n c</s> d",
    "<bos>a<eos> <unk> <s>b</s> <pad> <start_of_turn>user\n",
    "<tool_call>{}</tool_call> <think> x </think> [PAD151665] <unused0> <0x0A>",
    "a" * 40 + " " * 40 + "=" * 40,
    "\x00\x01\x1b[0m\x7f",
    "",
]

_CUT = {"\n", "\0"}  # no part of any piece: llama.cpp ends a token at the latter
_RAW = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]


def _merges(texts: Sequence[str], n: int) -> list[str]:
    """Byte-pair merges of texts that nothing cut before, so that each cut afterwards shows."""
    tokenizer = Tokenizer(models.BPE())
    trainer = trainers.BpeTrainer(vocab_size=n, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    return [" ".join(merge) for merge in merges]


def _spelt(text: str) -> str:
    """A text in GPT-2's letters."""
    letters = dict(zip(_bytes(), ALPHABET, strict=True))
    return "".join(letters[byte] for byte in text.encode())


def _bytes() -> list[int]:
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return [*printable, *(byte for byte in range(256) if byte not in printable)]


def train() -> dict[str, list[str]]:
    """Merges over letters for bytes and over characters, to be kept as data."""
    plain = [text.replace(" ", "▁") for text in TEXTS]
    return {
        "bytes": _merges([_spelt(text) for text in TEXTS], 1000),
        "characters": [merge for merge in _merges(plain, 1000) if not _CUT & set(merge)],
    }


def _metadata(**values: Any) -> dict[str, Any]:
    return {f"tokenizer.ggml.{key}": value for key, value in values.items()}


def vocabularies(
    merges: Mapping[str, list[str]], pre_tokenizers: Mapping[str, bool]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Small tokenizers by name: every pre-tokenizer, every kind and switch."""
    joined = [merge.replace(" ", "") for merge in merges["bytes"]]
    special = ["<|endoftext|>", "<|im_start|>", "<tool_call>"]
    tokens = list(dict.fromkeys([*special, *ALPHABET, *joined]))
    gpt2 = _metadata(
        model="gpt2",
        tokens=tokens,
        token_type=[3, 3, 4] + [1] * (len(tokens) - 3),
        merges=merges["bytes"],
        bos_token_id=1,
        eos_token_id=0,
    )
    letters = sorted({letter for text in TEXTS for letter in text.replace(" ", "▁")} - _CUT)
    joined = [merge.replace(" ", "") for merge in merges["characters"]]
    pieces = list(dict.fromkeys([*_RAW, "  ", *letters, *joined]))
    types = [2, 3, 3] + [6] * 256 + [4] + [1] * (len(pieces) - 260)
    llama = _metadata(
        model="llama",
        pre="default",
        tokens=pieces,
        token_type=types,
        scores=[-float(number) for number in range(len(pieces))],
        bos_token_id=1,
        eos_token_id=2,
        unknown_token_id=0,
    )
    merging = llama | _metadata(model="gpt2", merges=merges["characters"])
    for name, raw in pre_tokenizers.items():
        yield name, (merging if raw else gpt2) | _metadata(pre=name)
    yield "gemma4 kind", merging | _metadata(model="gemma4", add_bos_token=True)
    yield "llama kind", llama
    yield "no space first", llama | _metadata(add_space_prefix=False)
    around = _metadata(add_bos_token=True, add_eos_token=True)
    yield "llama kind, both around", llama | around
    yield "bytes, both around", gpt2 | around | _metadata(pre="qwen2")
    yield "nothing around", gpt2 | _metadata(pre="llama-bpe", add_bos_token=False)
    phi = {
        "tokenizer.ggml.tokens": [*pieces, "<|endoftext|>", "<|end|>"],
        "tokenizer.ggml.token_type": [*(1 if kind == 4 else kind for kind in types), 3, 3],
        "tokenizer.ggml.scores": [*llama["tokenizer.ggml.scores"], -9e3, -9e3],
    }
    yield "phi", llama | phi | {"general.name": "Phi-3 mini"}


def write_vocabulary(file: Path, metadata: Mapping[str, Any]) -> Path:
    """A GGUF file without tensors, which is enough for a vocabulary."""
    writer = gguf.GGUFWriter(str(file), "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(64)
    writer.add_block_count(1)
    writer.add_feed_forward_length(64)
    writer.add_head_count(1)
    writer.add_layer_norm_rms_eps(1e-5)
    kinds = {str: "STRING", bool: "BOOL", int: "UINT32"}
    for key, value in metadata.items():
        if isinstance(value, list):
            writer.add_array(key, value)
        else:
            kind = gguf.GGUFValueType[kinds[type(value)]]
            writer.add_key_value(key, value, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return file


def token_ids(file: Path, texts: Sequence[str]) -> list[list[int]]:
    """llama.cpp's tokens of each text, special ones parsed, with what stands around a text."""
    import llama_cpp

    model = llama_cpp.Llama(str(file), vocab_only=True, verbose=False)
    return [model.tokenize(text.encode(), add_bos=True, special=True) for text in texts]


def write_in_float32(source: Path, target: Path) -> Path:
    """The same model with its weights dequantised."""
    reader = gguf.GGUFReader(source)
    architecture = reader.fields["general.architecture"].contents()
    writer = gguf.GGUFWriter(str(target), architecture, use_temp_file=True)
    for key, field in reader.fields.items():
        if not key.startswith("GGUF.") and key != "general.architecture":
            inner = field.types[-1] if len(field.types) > 1 else None
            writer.add_key_value(key, field.contents(), field.types[0], inner)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, gguf.dequantize(tensor.data, tensor.tensor_type))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


def windows(ids: Sequence[int]) -> list[list[int]]:
    """The pieces of the corpus whose negative log-likelihoods are compared."""
    return [list(ids[start * WINDOW : (start + 1) * WINDOW]) for start in range(WINDOWS)]


def corpus_text() -> str:
    """The beginning of the built-in corpus."""
    return "".join(file.read_text("utf-8") for file in sorted(CORPUS.glob("*.txt")))[:8000]


def nll_nats(file: Path, pieces: Sequence[Sequence[int]]) -> list[float]:
    """Negative log-likelihood of each piece after its first token, in float32 throughout."""
    import llama_cpp

    model = llama_cpp.Llama(
        str(file),
        n_ctx=WINDOW,
        n_batch=WINDOW,
        logits_all=True,
        type_k=llama_cpp.GGML_TYPE_F32,
        type_v=llama_cpp.GGML_TYPE_F32,
        n_threads=1,
        n_threads_batch=1,
        yarn_attn_factor=-1.0,  # as the file says
        yarn_beta_fast=-1.0,
        yarn_beta_slow=-1.0,
        verbose=False,
    )
    sums = []
    for ids in pieces:
        model.reset()
        model.eval(ids)
        logits = np.asarray(model.scores[: len(ids) - 1], dtype=np.float64)
        logits -= logits.max(axis=1, keepdims=True)
        chosen = logits[np.arange(len(ids) - 1), ids[1:]]
        sums.append(float((np.log(np.exp(logits).sum(axis=1)) - chosen).sum()))
    return sums


@cache
def kept() -> dict[str, Any]:
    """The data."""
    data: dict[str, Any] = json.loads(DATA.read_text("utf-8"))
    return data


def of_file(file: Path, folder: Path) -> dict[str, Any]:
    """All that is kept of a real file."""
    (text,) = token_ids(file, [corpus_text()])
    wide = write_in_float32(file, folder / f"{file.stem}-f32.gguf")
    nats = nll_nats(wide, windows(text))
    wide.unlink()
    return {"ids": token_ids(file, TEXTS), "nll_nats": nats}


def of_vocabularies(merges: Mapping[str, list[str]], folder: Path) -> list[dict[str, Any]]:
    """Small tokenizers' names by the tokens that they make of all texts, joined."""
    from robustness.checkpoint.gguf.tokenizer import pre_tokenizers

    by_ids: dict[str, list[str]] = {}
    for name, metadata in vocabularies(merges, pre_tokenizers()):
        file = write_vocabulary(folder / "vocabulary.gguf", metadata)
        ids = token_ids(file, TEXTS)
        by_ids.setdefault(json.dumps(ids), []).append(name)
    return [{"names": names, "ids": json.loads(ids)} for ids, names in by_ids.items()]


def main() -> None:
    import llama_cpp

    data = kept() if DATA.is_file() else {"files": {}}
    merges = data.get("merges") or train()
    with tempfile.TemporaryDirectory() as folder:
        small = of_vocabularies(merges, Path(folder))
        files = {
            name: of_file(file, Path(folder))
            for name, find in REAL_FILES.items()
            if (file := find()) is not None
        }
    data = {
        "made_by": COMMAND,
        "llama_cpp_python": llama_cpp.__version__,
        "merges": merges,
        "vocabularies": small,
        "files": data["files"] | files,
    }
    DATA.write_text(json.dumps(data, ensure_ascii=False, separators=(",", ":")) + "\n", "utf-8")


if __name__ == "__main__":
    main()
