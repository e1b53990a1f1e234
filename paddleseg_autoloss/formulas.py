r"""Formulas in LaTeX as lines of text, and docstrings that hold them, for the terminal."""

from __future__ import annotations

import re
import textwrap
import unicodedata
from collections.abc import Iterator

__all__ = ["plain_docstring", "plain_formula"]

_SYMBOLS = {
    "alpha": "α", "beta": "β", "gamma": "γ", "delta": "δ", "epsilon": "ε", "eta": "η",
    "theta": "θ", "lambda": "λ", "mu": "μ", "xi": "ξ", "pi": "π", "rho": "ρ", "sigma": "σ",
    "tau": "τ", "phi": "φ", "psi": "ψ", "omega": "ω", "ell": "ℓ", "Delta": "Δ", "Pi": "Π",
    "sum": "Σ", "prod": "∏", "partial": "∂", "nabla": "∇", "infty": "∞", "langle": "⟨",
    "rangle": "⟩", "lVert": "‖", "rVert": "‖", "lvert": "|", "rvert": "|", "le": "≤", "ge": "≥",
    "approx": "≈",
    "ne": "≠", "leftarrow": "←", "to": "→", "propto": "∝", "sim": "~", "cdot": "·", "times": "×",
    "dots": "…", "in": "∈", "quad": "\u00a0\u00a0\u00a0", ",": " ", ";": " ", "!": "", " ": " ",
    "{": "{", "}": "}", "left": "", "right": "", "Big": "", "big": "", "textstyle": "",
}  # fmt: skip
#: Marks that go over the letter before them.
_ACCENTS = {"hat": "\u0302", "bar": "\u0304", "tilde": "\u0303", "overline": "\u0305"}
_TEXT = ("text", "operatorname", "mathrm")
_FRACTIONS = ("frac", "tfrac", "dfrac")
_NAMES = ("log", "ln", "exp", "cos", "sin", "min", "max", "softmax", "argmin", "diag")
_SUPERSCRIPTS = str.maketrans("0123456789+-=()nTi", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁼⁽⁾ⁿᵀⁱ")
_SUBSCRIPTS = str.maketrans("0123456789+-=()aehijklmnoprstuvx", "₀₁₂₃₄₅₆₇₈₉₊₋₌₍₎ₐₑₕᵢⱼₖₗₘₙₒₚᵣₛₜᵤᵥₓ")
_TOKEN = re.compile(r"\\[a-zA-Z]+|\\.|[{}^_]|\s+|.", flags=re.DOTALL)
_WIDTH = 80
#: Stands for the blanks of a formula while lines are filled.
_SPACE = "\N{NO-BREAK SPACE}"
_LISTS = ("Args:", "Attributes:", "Raises:")
_SECTIONS = (*_LISTS, "Deviations:")


def plain_formula(latex: str) -> str:
    r"""Return a formula in letters, Greek ones and others of Unicode.

    Args:
        latex: the formula; it may have several lines, aligned by ``&``.

    Examples:
        >>> print(plain_formula(r"\sum_i \frac{1}{2 c_i^2} L_i + \ln(1 + c_i^2)"))
        Σᵢ (1/(2 cᵢ²)) Lᵢ + ln(1 + cᵢ²)
        >>> print(plain_formula(r"\hat g_i = \beta^{t-1} \lVert g_{ik} \rVert"))
        ĝᵢ = β^(t-1) ‖gᵢₖ‖
    """
    lines = re.split(r"\\\\|\\qquad\b", " ".join(latex.replace("&", "").split()))
    return "\n".join(_Reader(line).all() for line in lines)


class _Reader:
    """Reads one line of a formula from left to right.

    Args:
        latex: the line.
    """

    def __init__(self, latex: str) -> None:
        self._tokens = _TOKEN.findall(latex)
        self._next = 0

    def all(self) -> str:
        """Return the whole line as text."""
        text = re.sub(" +", " ", self._until(None))
        text = re.sub(r"(?<=[⟨(\[]) +| +(?=[⟩)\],])", "", text)
        return re.sub(r"‖ *([^‖]*?) *‖", r"‖\1‖", text).strip()

    def _until(self, end: str | None) -> str:
        parts = []
        while self._next < len(self._tokens) and self._tokens[self._next] != end:
            parts.append(self._one())
        self._next += end is not None
        return "".join(parts)

    def _one(self) -> str:
        token = self._tokens[self._next]
        self._next += 1
        if token == "{":
            return self._until("}")
        if token == "^":
            return _raised(self._argument(), _SUPERSCRIPTS, "^")
        if token == "_":
            return _raised(self._argument(), _SUBSCRIPTS, "_")
        if not token.startswith("\\"):
            return " " if token.isspace() else token
        return self._command(token[1:])

    def _command(self, name: str) -> str:
        if name in _ACCENTS:
            marked = "".join(letter + _ACCENTS[name] for letter in self._argument())
            return unicodedata.normalize("NFC", marked)
        if name in _FRACTIONS:
            fraction = f"{_grouped(self._argument())}/{_grouped(self._argument())}"
            return f"({fraction})" if self._factor_follows() else fraction
        if name == "sqrt":
            return f"√{_grouped(self._argument())}"
        if name in _TEXT:
            return self._argument()
        if name in _NAMES:
            return self._name(name)
        return _SYMBOLS[name]

    def _name(self, name: str) -> str:
        """Put the name of a function next to the parenthesis that follows it."""
        rest = "".join(self._tokens[self._next :])
        if re.match(r"\s*(\\left|\\Big)?\s*\(", rest):
            while self._tokens[self._next].isspace() or self._tokens[self._next][0] == "\\":
                self._next += 1
        return name

    def _factor_follows(self) -> bool:
        """Whether what follows a fraction might be read as a part of its denominator."""
        rest = "".join(self._tokens[self._next :]).lstrip()
        return re.match(r"$|[-+=,;)\]}^_]|\\(right|quad|le|ge|Big)\b", rest) is None

    def _argument(self) -> str:
        """Return what a command is applied to: a group, or the next letter."""
        while self._tokens[self._next].isspace():
            self._next += 1
        return self._one().strip()


def _grouped(text: str) -> str:
    """Put what is more than one name between parentheses."""
    is_simple = re.fullmatch(r"[^\W_]+[\u0300-\u036f]*\w*|[∂ᵀ\w]+|‖[^‖]*‖", text) is not None
    return text if is_simple else f"({text})"


def _raised(text: str, letters: dict[int, int], mark: str) -> str:
    """Write a subscript or superscript in small letters where they all exist."""
    packed = text.replace(" ", "")
    if all(ord(letter) in letters for letter in packed):
        return packed.translate(letters)
    return f"{mark}{text}" if re.fullmatch(r"\w+", text) else f"{mark}({text})"


def plain_docstring(docstring: str) -> str:
    """Return a docstring as text of at most 80 columns, its formulas by `plain_formula`.

    Args:
        docstring: in the form that this package has, its indentation removed.
    """
    text = re.sub(r":math:`(.+?)`", lambda m: _unbroken(m[1]), docstring, flags=re.DOTALL)
    text = text.replace("``", "").replace("`", "")
    blocks = re.split(r"\n\s*\n", text)
    joined: list[str] = []
    for block in blocks:
        # The formula itself may stand behind a blank line.
        if joined and joined[-1].strip() == ".. math::":
            joined[-1] += f"\n{block}"
        else:
            joined.append(block)
    return "\n\n".join("\n".join(_lines(block)) for block in joined)


def _unbroken(latex: str) -> str:
    """Return a formula within text, which a line break must not tear apart."""
    return plain_formula(latex).replace(" ", _SPACE)


def _lines(block: str) -> Iterator[str]:
    indent = _indent(block)
    if block.lstrip().startswith(".. math::"):
        formula = plain_formula(block.lstrip().removeprefix(".. math::"))
        for line in formula.split("\n"):
            yield from _filled(line, f"{indent}    ", hanging="  ")
        return
    title, _, rest = block.partition("\n")
    if title.strip() not in _SECTIONS:
        yield from _filled(block, indent)
        return
    yield title
    indent = _indent(rest)
    # An entry goes on in lines that are further to the right.
    pattern = rf"\n(?={indent}\w+: )" if title.strip() in _LISTS else r"(?!)"
    for item in re.split(pattern, rest):
        yield from _filled(item, indent, hanging="    " if title.strip() in _LISTS else "")


def _indent(text: str) -> str:
    return " " * (len(text) - len(text.lstrip(" ")))


def _filled(text: str, indent: str, hanging: str = "") -> list[str]:
    lines = textwrap.wrap(
        re.sub(r"[ \n]+", " ", text).strip(),
        width=_WIDTH,
        initial_indent=indent,
        subsequent_indent=indent + hanging,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return [line.replace(_SPACE, " ") for line in lines]
