"""Transcripts as files: txt, json, srt, vtt, tsv, ass; a core. Captions are made by `rtcstt.captions`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from rtcstt import captions
from rtcstt.batch.transcripts import Transcription, Turn
from rtcstt.media.tracks import Gap

PARAGRAPH_PAUSE_S = 2.5
PARAGRAPH = 700  # characters; the next sentence's end ends it


@dataclass(frozen=True, slots=True)
class FormatSettings:
    """``layout``: of caption cues; ``word_times``: in WebVTT; ``text_times``: at the paragraphs of txt."""

    layout: captions.Layout = captions.USUAL
    word_times: bool = False
    text_times: bool = False


PLAIN = FormatSettings()
WITHOUT_WORD_TIMES = {"txt"}  # formats for which it is enough to know about when a word was said


def render(whole: Transcription, name: str, settings: FormatSettings = PLAIN) -> str:
    """A transcript in one of `FORMATS`."""
    return FORMATS[name](whole, settings)


def as_text(whole: Transcription, settings: FormatSettings) -> str:
    """Paragraphs: another begins where another speaks or there is a pause. Gaps have a line of their own."""
    blocks: list[tuple[float, str]] = [(gap.start, missing(gap)) for gap in marked(whole)]
    for paragraph in _paragraphs(whole):
        first = paragraph[0]
        text = "".join(turn.text for turn in paragraph).strip()
        name = f"{first.speaker}: " if first.speaker else ""
        time = f"[{captions.stamp(first.start, '.')[:8]}] " if settings.text_times else ""
        blocks.append((first.start, f"{time}{name}{text}"))
    blocks.sort(key=lambda block: block[0])
    return "\n\n".join(text for _, text in blocks) + "\n"


def _paragraphs(whole: Transcription) -> Iterator[list[Turn]]:
    paragraph: list[Turn] = []
    gaps = [gap.start for gap in marked(whole)]
    for turn in whole.turns:
        if paragraph and _ends(paragraph, turn, gaps):
            yield paragraph
            paragraph = []
        paragraph.append(turn)
    if paragraph:
        yield paragraph


def _ends(paragraph: Sequence[Turn], turn: Turn, gaps: Sequence[float]) -> bool:
    last = paragraph[-1]
    length = sum(len(turn.text) for turn in paragraph)
    return (
        turn.channel != last.channel
        or turn.start - last.end > PARAGRAPH_PAUSE_S
        or (length > PARAGRAPH and last.text.rstrip().endswith((".", "?", "!")))
        or any(last.end <= gap <= turn.start for gap in gaps)
    )


def as_json(whole: Transcription, settings: FormatSettings) -> str:
    """As `docs/transcript.schema.json` has it."""
    return json.dumps(whole.as_dict(), ensure_ascii=False, indent=1) + "\n"


def as_tsv(whole: Transcription, settings: FormatSettings) -> str:
    """Start and end in ms, the speaker where there are several, and the text; a line for each turn."""
    named = any(turn.speaker for turn in whole.turns)
    lines = ["\t".join(["start", "end", *(["speaker"] if named else []), "text"])]
    for turn in whole.turns:
        fields = [str(round(turn.start * 1000)), str(round(turn.end * 1000))]
        fields += [_field(turn.speaker or "")] if named else []
        lines.append("\t".join([*fields, _field(turn.text)]))
    return "\n".join(lines) + "\n"


def _field(text: str) -> str:
    return " ".join(text.split())


_ASS_HEAD = """[Script Info]
ScriptType: v4.00+
WrapStyle: 2
PlayResX: 1280
PlayResY: 720

[V4+ Styles]
Format: Name, Fontname, Fontsize, PrimaryColour, SecondaryColour, OutlineColour, BackColour, Bold, Italic, \
Underline, StrikeOut, ScaleX, ScaleY, Spacing, Angle, BorderStyle, Outline, Shadow, Alignment, \
MarginL, MarginR, MarginV, Encoding
Style: Default,Arial,48,&H00FFFFFF,&H0000A5FF,&H00000000,&H80000000,0,0,0,0,100,100,0,0,1,2,1,2,40,40,40,1

[Events]
Format: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text
"""


def as_ass(whole: Transcription, settings: FormatSettings) -> str:
    """Advanced SubStation Alpha, each word lit up as it is said."""
    lines = [
        f"Dialogue: 0,{_ass_time(cue.start)},{_ass_time(cue.end)},Default,{_ass_name(cue.speaker)},0,0,0,,"
        + r"\N".join(_karaoke(cue))
        for cue in captions.cues(caption_turns(whole), settings.layout)
    ]
    return _ASS_HEAD + "\n".join(lines) + "\n"


def _karaoke(cue: captions.Cue) -> Iterator[str]:
    """Its lines, each word with how many hundredths of a second it takes."""
    ends = iter([*cue.times[1:], cue.end])
    at = round(cue.start * 100)
    for line in cue.lines:
        words = []
        for word in line.split():
            until = max(at, round(next(ends, cue.end) * 100))
            words.append(f"{{\\k{until - at}}}{_ass(word)}")
            at = until
        yield " ".join(words)


def _ass(text: str) -> str:
    """Braces and backslashes mean something there, and cannot be escaped everywhere."""
    return text.replace("\\", "\uff3c").replace("{", "\uff5b").replace("}", "\uff5d")


def _ass_name(speaker: str) -> str:
    return _ass(speaker).replace(",", " ")


def _ass_time(seconds: float) -> str:
    minutes, hundredths = divmod(round(seconds * 100), 6000)
    return f"{minutes // 60}:{minutes % 60:02}:{hundredths // 100:02}.{hundredths % 100:02}"


def caption_turns(whole: Transcription) -> list[captions.Turn]:
    """What `captions` makes cues of: the turns, and a mark for each longer gap."""
    spoken = [
        captions.Turn(
            track=str(turn.channel),
            speaker=turn.speaker or "",
            turn=number,
            text=turn.text,
            start=turn.start,
            end=turn.end,
            final=True,
            words=tuple((word.start, word.end) for word in turn.words),
        )
        for number, turn in enumerate(whole.turns)
    ]
    lost = [
        captions.Turn("0", "", len(spoken) + number, missing(gap), gap.start, gap.end, True, gap=gap.reason)
        for number, gap in enumerate(marked(whole))
    ]
    return sorted([*spoken, *lost], key=lambda turn: turn.start)


def marked(whole: Transcription) -> list[Gap]:
    """The gaps that texts mark."""
    return [gap for gap in whole.gaps if gap.end - gap.start >= captions.SHOWN_GAP_S]


def missing(gap: Gap) -> str:
    return captions.gap_mark(gap.end - gap.start)


FORMATS: Mapping[str, Callable[[Transcription, FormatSettings], str]] = {
    "txt": as_text,
    "json": as_json,
    "srt": lambda whole, settings: captions.subrip(caption_turns(whole), settings.layout),
    "vtt": lambda whole, settings: captions.webvtt(
        caption_turns(whole), settings.layout, word_times=settings.word_times
    ),
    "tsv": as_tsv,
    "ass": as_ass,
}
