"""Which programming language a piece of code is in, told by what only few languages write.

It is a guess, and used as one: rules of that language go first among those that fit about as well. Prose gives none.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

_HEAD = 4_000
"""Characters that are looked at: a language shows in its first lines."""
_ENOUGH = 2
"""Points from which a language is told."""

_STRONG, _WEAK = 2, 1
_SIGNS: Mapping[tuple[str, ...], tuple[tuple[str, int], ...]] = {
    ("python",): (
        (r"^\s*(?:async\s+)?def \w+\(.*\)?(?:\s*->.*)?:?\s*$", _STRONG),
        (r"^\s*class \w+(?:\(.*\))?:\s*(?:pass|\.\.\.)?\s*$", _STRONG),
        (r"^\s*from [\w.]+ import ", _STRONG),
        (r"^\s*import \w+(?:\.\w+)*(?: as \w+)?\s*$", _STRONG),
        (r"^\s*(?:if|elif|for|while|with|except|try|else|finally)\b[^{;]*:\s*(?:$|pass|return|\.\.\.)", _STRONG),
        (r"\bself\.\w+(?!\s*::)|\bNone\b|\belif\b|\bnot in\b|\bis not\b|\blambda \w+(?:, ?\w+)*:", _WEAK),
        (
            r"\b__\w+__\b|\b(?:isinstance|len|print|range|dict|set|list)\(|\bexcept\b.*:|\bf\"|\bf'|^\s*@\w+(?:\.\w+)*",
            _WEAK,
        ),
        (r"\[[^\]]+ for \w+(?:, ?\w+)* in |\bTrue\b|\bFalse\b|^\s*raise \w+", _WEAK),
        (r"\b\w+\([^()]*\b\w+=[^=]", _WEAK),
    ),
    ("javascript", "typescript"): (
        (r"===|!==", _STRONG),
        (r"^\s*(?:export\s+)?(?:const|var) [\w{\[$][^:=]*(?::[^=]+)?=(?!=)", _STRONG),
        (r"\bfunction\s*\*?\s*\w*\s*\([^)]*\)\s*\{", _STRONG),
        (r"\([\w\s,{}.$=]*\)\s*=>|\b\w+\s*=>\s*[\w{(\[]", _STRONG),
        (r"^\s*import\b.*\bfrom\s*['\"]|\brequire\(['\"]|^\s*export (?:default|const|function|class|\{|\*)", _STRONG),
        (
            r"\bconsole\.\w+\(|\bdocument\.|\bwindow\.|\btypeof \w|\bundefined\b|\bnew Promise\b|\bmodule\.exports\b",
            _STRONG,
        ),
        (r"\b(?:Array|Object|Promise|Number|JSON|Math|Symbol|RegExp)\.\w+\(|\bthis\.\w+|`[^`]*\$\{", _WEAK),
        (r"\binterface \w+\s*\{|: (?:string|number|boolean|any|unknown)\b|\bawait \w|\bnew \w+\(", _WEAK),
        (r"\.(?:then|catch|forEach|addEventListener|querySelector|innerHTML|length)\b|/[^/\s]+/[dgimsuy]+\b", _WEAK),
    ),
    ("rust",): (
        (r"\bfn \w+(?:<[^>]*>)?\s*\(", _STRONG),
        (r"\blet mut\b|&mut\b|\bimpl\b[^;]*\{|\bunsafe \{|\bpub (?:fn|struct|enum|mod|use|trait|const)\b", _STRONG),
        (r"#!?\[\w+", _STRONG),
        (r"\b\w+!\s*[(\[{]|\|\w*(?:, ?\w+)*\|[ \t]*[\w{(!*&]", _STRONG),
        (r"\b(?:u8|u16|u32|u64|usize|i8|i16|i32|i64|isize|f32|f64)\b|\b\d+_?(?:u|i)(?:8|16|32|64|size)\b", _STRONG),
        (r"\b(?:Some|Ok|Err|Box|Vec|Option|Result|Rc|Arc|RefCell)(?:::|<|\()", _STRONG),
        (
            r"\b(?:std|core|alloc|crate)::|\bmatch \w[^{]*\{|\.unwrap\(\)|\.iter\(\)|\.clone\(\)|\.to_string\(\)",
            _STRONG,
        ),
        (r"\bSelf\b|\bas_ref\(|&self\b|&str\b|\w::\w|->\s*\w|'static\b", _WEAK),
    ),
    ("go",): (
        (r"^\s*package \w+\s*$|\bfunc (?:\(\w+ \*?\w+\) )?\w*\(.*\{", _STRONG),
        (r"\w+ :=|\bchan \w|\bgo func\b|\bdefer \w|\bmap\[\w+\]|\[\]\w+\{|<-\s*\w", _STRONG),
        (r"\bif err != nil\b|\bfmt\.\w+\(|\bstruct\{|\binterface\{\}|^\s*type \w+ (?:struct|interface)\b", _STRONG),
        (r"\bnil\b|\berr\b", _WEAK),
    ),
    ("java",): (
        (
            r"\b(?:public|private|protected) (?:static |final |abstract )*(?:class|void|int|String|boolean)\b",
            _STRONG,
        ),
        (r"\bSystem\.out\.|^\s*import java|\bthrows \w+Exception\b|@Override\b|\bfinal \w+ \w+ =|\bnew \w+<", _STRONG),
        (r"\b(?:String|int|long|double|boolean|Integer|List<\w+>) \w+\s*[=;,)]", _WEAK),
    ),
    ("csharp",): (
        (
            r"^\s*using [\w.]+;\s*$|\bnamespace [\w.]+\s*[;{]|\bConsole\.Write|\{\s*get;|\basync Task\b",
            _STRONG,
        ),
        (
            r"\b(?:public|private|internal) (?:static |readonly |override |async )*(?:class|void|string|Task)\b",
            _STRONG,
        ),
    ),
    ("kotlin",): ((r"\bfun \w+\(|\bval \w+(?:: ?\w+)? =|\bdata class\b|\bcompanion object\b|\?\.let \{", _STRONG),),
    ("swift",): (
        (r"\bguard let\b|\bif let \w+ =|\bfunc \w+\(_ |\bimport (?:UIKit|SwiftUI|Foundation)\b|@objc\b", _STRONG),
    ),
    ("objective-c",): (
        (r"^\s*@(?:interface|implementation|property|end)\b|\[\w+ \w+(?:\];|:[^\]\n]+\])|\bNS\w+ \*|@\"", _STRONG),
    ),
    ("ruby",): (
        (r"\bdo \|\w+\||^\s*end\s*$|\battr_(?:reader|accessor)\b|^\s*require ['\"]", _STRONG),
        (r"^\s*def \w+[?!]?(?:\(.*\))?\s*$|\bputs \S|\.each\b|\bunless\b|\bnil\b", _WEAK),
    ),
    ("php",): (
        (r"<\?php|\bfunction \w+\(\s*\$|\becho \$|\$this->", _STRONG),
        (r"\$\w+\s*(?:->|=[^=]|\))|\barray_\w+\(", _STRONG),
    ),
    ("cpp", "c"): (
        (r"^\s*#\s*(?:include\s*[<\"]|define \w|ifdef \w|pragma \w)", _STRONG),
        (r"\bstd::(?:vector|string|map|cout|unique_ptr|move)\b|\btemplate\s*<|\bnullptr\b", _STRONG),
        (r"\b(?:int|char|void|size_t|double) \*?\w+\s*(?:\[|\(|=|;)|\bprintf\(|\bmalloc\(", _WEAK),
    ),
    ("sql",): (
        (
            r"(?i:\bselect\b[\s\S]*\bfrom\b|\binsert\s+into\b|\bcreate\s+(?:table|index|view)\b|\balter\s+table\b)",
            _STRONG,
        ),
        (r"(?i:\b(?:left|inner|outer|cross)\s+join\b|\bgroup\s+by\b|\border\s+by\b|\bunion\b)", _STRONG),
    ),
    ("shell", "bash"): (
        (
            r"^#!.*\b(?:ba|z|k)?sh\b|^\s*(?:if|while) \[\[? |\bthen\s*$|^\s*fi\s*$|^\s*esac\s*$|\"\$[@\w{]|\$\(\w",
            _STRONG,
        ),
        (r"^\s*(?:echo|export|set -|cd|local|source) |\|\| (?:exit|return)\b|2>&1", _WEAK),
    ),
    ("terraform",): ((r"^\s*(?:resource|data|variable|provider|module) \"[\w-]+\"", _STRONG),),
    ("css",): ((r"[.#]?[\w-]+\s*\{\s*[\w-]+\s*:\s*[^;{}]+;|^\s*@media\b", _STRONG),),
    ("html",): ((r"<(?:div|span|html|body|head|script|form|input|button|a|img|ul|li|p)\b[^>]*>", _STRONG),),
    ("docker",): ((r"^(?:FROM \S+(?::\S+)?(?: AS \w+)?|RUN \S+ |COPY \S+ \S+|ENTRYPOINT \[)", _STRONG),),
}
_COMPILED = {
    stacks: tuple((re.compile(sign, re.MULTILINE), points) for sign, points in signs)
    for stacks, signs in _SIGNS.items()
}
_CODE = re.compile(r"[(){}\[\];=<>|&$#]|^\s{2,}\S|::|->|^\s*(?i:select|import|from)\b", re.MULTILINE)
_CODE_SHARE = 0.015
"""Share of code's own characters from which a text may be code: prose names a call now and then."""
_SAID_AT_ONCE = 500
"""Characters beyond which the share no longer counts: code may stand before much prose."""


def languages_of_code(text: str) -> tuple[str, ...]:
    """The tech stacks of the language that a text is written in, as rules name them; none for prose or in doubt."""
    head = text[:_HEAD]
    if len(_CODE.findall(head)) < max(2.0, min(len(head), _SAID_AT_ONCE) * _CODE_SHARE):
        return ()
    points = {stacks: sum(worth for sign, worth in signs if sign.search(head)) for stacks, signs in _COMPILED.items()}
    best, second = sorted(points, key=lambda stacks: -points[stacks])[:2]
    return best if points[best] >= _ENOUGH and points[best] > points[second] else ()
