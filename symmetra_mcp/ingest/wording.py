"""The words that tell a rule from a description, and how strongly it is meant.

Small lists, chosen for what rule files say. A text in a script without blanks is never dropped for its word count,
and one in a language without a list here counts as a rule.
"""

from __future__ import annotations

import re
from functools import lru_cache

from symmetra_mcp.types import Priority

_CJK = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\uac00-\ud7af]")
_WORD = re.compile(r"[^\W_]+(?:['\u2019-][^\W_]+)*")

_VERBS = """
abstract access account acknowledge add address adhere adjust adopt aim align allow analyse analyze annotate answer
apply ask assert assign assume attach audit authenticate automate avoid await back balance base batch be begin block
break bring build bump bundle cache calculate call capture catch centralize change check choose clarify clean clear
close co-locate code collect combine comment commit communicate compare complete compose compress compute conduct
configure confirm connect consider consolidate consult contain continue convert copy correct cover create customize
debounce debug declare decouple default defer define delegate delete deliver deploy derive describe design destructure
detect determine develop disable discuss display distinguish distribute divide do document don't double-check drop
edit eliminate embed emit employ enable encapsulate encode encourage encrypt end enforce enhance ensure escape
establish evaluate examine exclude execute exercise expand expect explain explore export expose express extend extract
fail fall favor favour fetch file fill filter find finish fix flag flatten flush focus follow force format generate get
give go group guard guarantee handle have hide highlight hold honor identify ignore illustrate implement import improve
include incorporate increase indent index infer inform inherit initialize inject inline insert inspect install
instrument integrate introduce investigate invoke isolate iterate join justify keep label launch lazy-load lean
learn leave let leverage limit link lint list listen load localize lock log look lower maintain make manage map mark
match maximize measure memoize mention merge migrate minimize mirror mock model modify modularize monitor mount move
name narrow navigate nest never normalize note notify obey observe offer omit open opt optimize order organise organize
output override package paginate parallelize parameterize parse pass perform persist pick pin place plan point
prefer prefix prepare present preserve prevent print prioritise prioritize produce profile prohibit prompt propagate
propose protect prove provide publish pull push put query quote raise re-use reach read rebase recommend record reduce
refactor refer reference refine refrain refuse regenerate register reject release rely remain remember remove rename
render reorder repeat replace report represent request require reserve reset resolve respect respond restrict retain
retry return reuse revert review rewrite roll rotate run sanitise sanitize save scan schedule scope search secure
select send separate serialize serve set setup share ship show sign simplify simulate skip solve sort specify split
stage standardize start state stay stick stop store stream strive structure structure style submit suggest summarize
supply support suppress switch synchronize tag take target tell terminate test think throttle throw tie touch track
transform translate treat trigger trim trust try tune turn type understand undo uninstall update upgrade use utilise
utilize validate verify version view visit wait walk warn watch wire work wrap write
"""
_COMMAND_VERBS = frozenset(_VERBS.split())

_STRONG = re.compile(
    r"\b(?:must|never|always|shall|should|do not|don['\u2019]t|cannot|can['\u2019]t|mustn['\u2019]t|shouldn['\u2019]t"
    r"|required?|mandatory|forbidden|prohibited|not allowed|only use|at all times|no exceptions?)\b",
    re.IGNORECASE,
)
_SOFT = re.compile(
    r"\b(?:avoid|prefer(?:red|ably)?|ensure|make sure|recommend(?:ed)?|consider|use|instead of|rather than|be sure"
    r"|needs? to|have to|has to|ought to|best practice|by default"
    r"|strive|favou?r|follow|keep|no longer|not recommended)\b",
    re.IGNORECASE,
)
_CJK_COMMAND = re.compile(
    "必须|必需|不要|不得|不应|不能|禁止|避免|应该|应当|应|请|使用|确保|优先|建议|推荐|遵循|采用|保持|需要|尽量"
    "|こと(?:。|\n|$)|すること|してください|しない|べき|避け|必ず|禁止|推奨|使用|する|ください|ない"
    "|하세요|마세요|해야|합니다|금지|사용|권장|않는다|한다|십시오"
)
_FOREIGN = re.compile(r"[\u0370-\u1fff\u2c00-\u2dff\ua640-\uabff]")

_LABELS = re.compile(
    r"^(?:(?:good|bad|correct|incorrect|wrong|right|better|best|avoid|prefer|preferred|recommended|not recommended"
    r"|before|after|do|don['\u2019]?t|do not|dos?|don['\u2019]?ts|yes|no|usage|valid|invalid|notes?|tips?"
    r"|warning|why|rationale|reason|output|input|result|ok|compliant|non-?compliant)"
    r"(?:\s+(?:example|examples|practice|code|way|approach|usage|pattern|this|it))?"
    r"|(?:code |usage |bad |good )?examples?(?:\s*\d+)?)\s*:?(?:\s*\([^)]{0,60}\))?$",
    re.IGNORECASE,
)
_PERSONA = re.compile(
    r"^[\s#>*_\"'`-]*(?:(?:you are|you['\u2019]re|act as|i am|as)\s+(?:an?\b|the\b|my\b|now\b|expert|highly|our\b)"
    r"|your role is|assume the role|you (?:always )?(?:specialize|excel|possess|have (?:deep|extensive|expertise))"
    r"|your (?:expertise|knowledge|skills|areas of)"
    r"|you(?:'re| are) (?:proficient|experienced|skilled|familiar|thoughtful)"
    r"|你是|您是|あなたは)",
    re.IGNORECASE,
)
_CONTEXT_QUALIFIERS = """
project repository repo the quick key common useful essential important main core build development dev additional
further external general basic code codebase file folder directory example tech technology test related system cli local
"""
_CONTEXT_NAMES = """
overview introduction intro about summary background description purpose setup set-up installation install
getting_started start quickstart prerequisites requirements command commands command_reference scripts structure layout
tree map organization organisation architecture_overview reference references resource resources link links reading
documentation_links see_also example examples stack technologies dependencies table_of_contents contents toc index
glossary changelog version_history license licence credits acknowledgements acknowledgments context role persona
expertise files locations paths metadata faq environment_variables ports urls files_and_directories template templates
"""


def _alternatives(words: str) -> str:
    return "|".join(re.escape(word).replace("_", r"\s+") for word in words.split())


_CONTEXT_HEADINGS = re.compile(
    rf"^(?:\d+[.)]?\s*)?(?:(?:{_alternatives(_CONTEXT_QUALIFIERS)}) |build (?:and|&) test )*"
    rf"(?:{_alternatives(_CONTEXT_NAMES)})(?:\s*(?:overview|reference|guide|structure|and links|links|list))?\s*$"
    r"|^(?:概述|简介|目录|参考|参考资料|参考资源|目录结构|项目结构|示例|概要|はじめに|目次|参考|개요|목차|참고)$",
    re.IGNORECASE,
)
_MILD = re.compile(
    r"\b(?:consider|prefer(?:ably|red)?|may|might|could|optional(?:ly)?|where (?:possible|appropriate)"
    r"|when (?:possible|appropriate)|if possible|nice to have)\b|尽量|建议|可以|推奨",
    re.IGNORECASE,
)
_FIRM = re.compile(
    r"\b(?:must|never|always|mandatory|forbidden|prohibited|required|under no circumstances|strictly)\b"
    r"|必须|禁止|绝不|必ず|絶対|반드시|금지",
    re.IGNORECASE,
)
_CRITICAL = re.compile(
    r"\bCRITICAL(?:LY)?\b|\bMUST NEVER\b|\bNON-NEGOTIABLE\b|\bcritical (?:rule|requirement)s?\b|严禁"
)
_SHOUTED = re.compile(r"\b(?:MUST|NEVER|ALWAYS)\b")
_ANNOUNCED = re.compile(r"\b(?:DO NOT|IMPORTANT|WARNING)\b")


def word_count(text: str) -> int:
    """Words; two characters of Chinese, Japanese or Korean count as one."""
    return len(_WORD.findall(_CJK.sub(" ", text))) + (len(_CJK.findall(text)) + 1) // 2


@lru_cache(maxsize=8192)
def commands(text: str) -> bool:
    """Whether the text tells its reader to do something or to leave it."""
    head = text[:4000]
    return bool(
        _STRONG.search(head) or _SOFT.search(head) or _CJK_COMMAND.search(head) or _FOREIGN.search(head)
    ) or any(starts_with_command(part) for part in _sentences(head))


def commands_strongly(text: str) -> bool:
    """Whether it does so in words that leave no doubt, so that it counts even below a heading such as Overview."""
    return bool(
        re.search(r"\b(?:must|never|always|do not|don['\u2019]t|should|avoid|ensure)\b|必须|禁止|不要|避免", text, re.I)
    )


def starts_with_command(text: str) -> bool:
    """Whether the first word is a verb in the imperative, after a marker or an adverb such as `please`."""
    words = _WORD.findall(re.sub(r"^[^:\n]{1,40}[:\uff1a]\s+", "", text[:200]) if ": " in text[:45] else text[:120])
    lead = [word.lower() for word in words[:3]]
    while lead and (lead[0].endswith("ly") or lead[0] in ("please", "then", "first", "also", "not", "and", "when")):
        lead.pop(0)
    first = _WORD.search(text[:80])
    return bool({*lead[:1], first[0].lower() if first else ""} & _COMMAND_VERBS)


def _sentences(text: str) -> list[str]:
    return re.split(r"(?<=[.!?:])\s+|\n+", text)[:40]


def is_label(title: str) -> bool:
    """Whether a heading only labels what stands below it (`Good example`), so that it opens no section."""
    return bool(_LABELS.match(title.strip()))


def is_persona(sentence: str) -> bool:
    """Whether it tells the assistant who it is rather than what to do."""
    return bool(_PERSONA.match(sentence))


def is_context_heading(title: str) -> bool:
    """Whether what stands below such a heading describes rather than commands."""
    return bool(_CONTEXT_HEADINGS.match(title.strip()))


def priority_of(text: str, category: str) -> Priority:
    """How strongly a rule is meant, by its own words; what is about security weighs one step more."""
    if _CRITICAL.search(text) or (category == "security" and _SHOUTED.search(text)):
        return "critical"
    if _FIRM.search(text) or _ANNOUNCED.search(text) or category == "security":
        return "high"
    return "low" if _MILD.search(text) else "medium"
