"""Writes data/text/: small vocabularies, and what transformers makes of texts with them.

    pip install transformers==5.24.0 tokenizers==0.23.3
    python3 tests/reference/text.py

The tests of plugins/src/modality/{word_pieces,clip_tokens}.rs read the files. Both vocabularies are
made from the sentences below, the merges by counting pairs, so that nothing of others is needed.
Texts are the sentences, ones that are hard on tokenisers, and random ones of hard characters.

    vocab.txt, tokenizer.json   BERT's form of a vocabulary, and Hugging Face's
    merges.txt                  CLIP's form of merges
    text.json                   numbers of tokens: of texts, of texts cut short, of pairs cut short
"""

import collections
import json
import pathlib
import random
import tempfile

from transformers import BertTokenizer, CLIPTokenizer

FOLDER = pathlib.Path(__file__).parent / "data" / "text"
MERGES = 120
SHORT = 8  # tokens of a text that is cut
SENTENCES = [
    "the grinning face with smiling eyes is not a crying face",
    "unaffable people are running faster than the others were running",
    "isn't it great, they're singing and we've heard that he'd sing: i'm sure she'll sing",
    "flight 1024 leaves at 10:24, and 7 of 12 passengers weren't there",
    "a sad face! a sad, sad face? no: the happiest of faces (by far)",
    "RT @someone: what a #wonderful day :) http://t.co/AbC123 &amp; more...",
]
HARD = [
    "",
    " ",
    "\t\n\r ",
    "a",
    "The Grinning FACE",
    "Café naïve ÀÉÎÕÜ crème brûlée",
    "cafe\u0301 nai\u0308ve \u1e69 s\u0323\u0307 \u212b",
    "\u0130stanbul I\u0307 \u0131 ΣΊΣΥΦΟΣ ὈΔΥΣΣΕΎΣ ẞ ß ŉ",
    "face\u200bface \u200d face\u00adface \ufefffaces",
    "face\x00face\x01 \x0bface\x0cface\x1cface\x1fface\x7f \x85face\ufffdface",
    "face\u00a0face\u2003face\u2028face\u2029face\u3000face\u180eface",
    "野口里佳 Noguchi Rika 日本語とひらがな 한국어 \u3400\U00020000\uf900",
    "😀😃 grinning👩‍👩‍👧 face❤️ flags 🇩🇪 keycap 1️⃣ 👍🏽",
    "¡Hola! ¿qué? «quotes» “curly” ‘single’ – — … · • † § ¶ © ® ™ € £ ¥ ° ± × ÷ ≠ ∞",
    "x" * 100,
    "x" * 101,
    "sad" * 33 + "s",
    "sad" * 33 + "sa",
    "running" * 40,
    "don't DON'T don’t it's IT'S we'RE 've 'll 'd 'm 's' ''s '''t rock'n'roll",
    "1234567890 ½ ² Ⅷ ٣٤٥ १२३ 3.14 1,000,000 7th",
    "snake_case kebab-case CamelCase e-mail@host.org http://t.co/AbC123?x=1&y=2#z $5.99 100% ^^ `` ~~",
    "#hashtag @user $T$ [brackets] {braces} <angle> |pipe| \\back/ +=*",
    "[CLS] a [SEP] face [MASK] [PAD] [UNK] [cls] [ SEP ] [[SEP]]",
    "<|startoftext|>a<|endoftext|> face <|startoftext|",
    "مرحبا بالعالم שלום עולם สวัสดี नमस्ते दुनिया Здравствуй мир γειά",
    "e\u0301\u0302\u0303\u0304 \u0301face zalgo f\u0335a\u0336c\u0337e\u0338",
    "\ue000 \U000f0000 \ufffe \U000e0041 \ud7ff",
    "ﬁne ﬀ ＦＵＬＬ　ｗｉｄｔｈ ㎏ Ⓐ ª º ʰ ˈ ʹ ^ ¨ ´",
    "a \u00b4 \u02d9 \u203f \u2040 \u20dd \u0488 \u0903 \u0e31 \U0001d165 \U00010100 \U0001f595",
]
CHARACTERS = (
    "aAeEsdfcnrgiT019 ''''.,!-_@#<|>[]()\t\n\r\x00\x1b\x85 \u00a0\u00adéÉñüçÅßİıΣςσǅŒ"
    "\u0301\u0308\u0323\u0345\u200b\u200d\u2028\u3000\ufeff\ufffd野日あ한٣½²Ⅷ€£«»“’…–·😀❤️👩🇩१ाञ\u0e31"
)


def words_of(sentence):
    """Splits a sentence for the two ways of making a vocabulary."""
    return "".join(c if c.isalnum() else f" {c} " for c in sentence.lower()).split()


def alphabet():
    """The characters that stand for bytes, in CLIP's order."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return [chr(byte) for byte in shown] + [chr(256 + place) for place in range(len(hidden))]


def count_merges():
    """Joins the most frequent pair of neighbours again and again."""
    words = [[*word[:-1], word[-1] + "</w>"] for text in SENTENCES for word in words_of(text)]
    merges = []
    while len(merges) < MERGES:
        pairs = collections.Counter(pair for word in words for pair in zip(word, word[1:]))
        made = {"".join(pair) for pair in merges}
        best = max((p for p in pairs if "".join(p) not in made), key=lambda p: (pairs[p], p))
        merges.append(best)
        for word in words:
            place = 0
            while place + 1 < len(word):
                if (word[place], word[place + 1]) == best:
                    word[place : place + 2] = ["".join(best)]
                place += 1
    return merges


def write_vocabulary():
    """Writes marks, signs, letters, frequent starts and ends of words, and words."""
    words = collections.Counter(word for text in SENTENCES for word in words_of(text))
    ends = collections.Counter(word[-3:] for word in words if len(word) > 5)
    entries = ["[PAD]", *(f"[unused{number}]" for number in range(3))]
    entries += ["[UNK]", "[CLS]", "[SEP]", "[MASK]", *"!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"]
    entries += [*"abcdefghijklmnopqrstuvwxyz0123456789", "野", "日", "™", "€", "…", "😀", "ß", "σ"]
    entries += [f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz0123456789σ"]
    entries += [f"##{end}" for end, _ in ends.most_common(30)]
    entries += [word for word, _ in words.most_common(70) if len(word) > 1]
    entries += ["face", "cafe", "naive", "un", "##aff", "##able", "##ning", "creme", "e", "##ace"]
    entries = list(dict.fromkeys(entries))
    (FOLDER / "vocab.txt").write_text("".join(f"{entry}\n" for entry in entries))
    return {entry: number for number, entry in enumerate(entries)}


def write_merges():
    """Writes the merges; gives them with the vocabulary that CLIP makes of them."""
    merges = count_merges()
    lines = ["#version: 0.2", *(" ".join(merge) for merge in merges)]
    (FOLDER / "merges.txt").write_text("".join(f"{line}\n" for line in lines))
    entries = alphabet() + [f"{letter}</w>" for letter in alphabet()]
    entries += ["".join(merge) for merge in merges] + ["<|startoftext|>", "<|endoftext|>"]
    assert len(set(entries)) == len(entries)
    return merges, {entry: number for number, entry in enumerate(entries)}


def main():
    """Writes the files."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    draw = random.Random(7)
    drawn = ["".join(draw.choices(CHARACTERS, k=draw.randrange(1, 24))) for _ in range(80)]
    texts = SENTENCES + HARD + drawn
    bert = BertTokenizer(vocab=write_vocabulary())
    with tempfile.TemporaryDirectory() as folder:
        bert.backend_tokenizer.save(f"{folder}/tokenizer.json")
        stored = json.loads(pathlib.Path(f"{folder}/tokenizer.json").read_text())
    (FOLDER / "tokenizer.json").write_text(json.dumps(stored, ensure_ascii=False))
    merges, vocabulary = write_merges()
    clip = CLIPTokenizer(vocab=vocabulary, merges=merges)

    pairs = []
    for first, second in [(0, 1), (1, 0), (2, 2), (7, 3), (3, 7), (6, 3), (11, 8)]:
        row = {"first": texts[first], "second": texts[second], "cut": {}}
        whole = bert(row["first"], row["second"])
        row["ids"], row["types"] = whole["input_ids"], whole["token_type_ids"]
        for tokens in (5, 8, 9, 14, 15, 24):
            cut = bert(row["first"], row["second"], truncation=True, max_length=tokens)
            row["cut"][tokens] = cut["input_ids"]
        pairs.append(row)
    cases = {
        "texts": [
            {
                "text": text,
                "word_pieces": bert(text)["input_ids"],
                "word_pieces_cut": bert(text, truncation=True, max_length=SHORT)["input_ids"],
                "clip": clip(text)["input_ids"],
                "clip_cut": clip(text, truncation=True, max_length=SHORT)["input_ids"],
            }
            for text in texts
        ],
        "pairs": pairs,
    }
    (FOLDER / "text.json").write_text(json.dumps(cases, ensure_ascii=True, separators=(",", ":")))


if __name__ == "__main__":
    main()
