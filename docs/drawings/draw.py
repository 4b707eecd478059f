#!/usr/bin/env python3
"""Draws the four figures of how-it-works.md: `python3 docs/drawings/draw.py`."""

import pathlib
from html import escape

WIDTH = 860
INK, PALE, GREY = "#1f2328", "#ffffff", "#6b7280"
BLUE, GREEN, ORANGE, VIOLET = "#cfe3fb", "#cdeccf", "#fde0b8", "#e6d9f7"


class Drawing:
    """An SVG on a light ground of its own, so that it reads on light and dark pages."""

    def __init__(self, title, height):
        self.parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" '
            f'viewBox="0 0 {WIDTH} {height}" role="img" font-family="sans-serif" font-size="15">',
            f"<title>{escape(title)}</title>",
            '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
            f'markerHeight="7" orient="auto"><path d="M0 0L8 4L0 8z" fill="{INK}"/></marker></defs>',
        ]
        self.box(0.5, 0.5, WIDTH - 1, height - 1, "#fafbfc", "#d0d7de", round=8)

    def box(self, x, y, w, h, fill=PALE, line=INK, round=2, dash=""):
        dash = f' stroke-dasharray="{dash}"' if dash else ""
        self.parts.append(
            f'<rect x="{x}" y="{y}" width="{w}" height="{h}" rx="{round}" fill="{fill}" '
            f'stroke="{line}"{dash}/>'
        )

    def text(self, x, y, words, size=15, anchor="start", fill=INK, bold=False, mono=False):
        style = ' font-weight="bold"' if bold else ""
        style += ' font-family="monospace"' if mono else ""
        self.parts.append(
            f'<text x="{x}" y="{y}" font-size="{size}" text-anchor="{anchor}" fill="{fill}"{style} '
            f'xml:space="preserve">{escape(words)}</text>'
        )

    def cell(self, x, y, w, h, words, fill=PALE, size=14, mono=True):
        self.box(x, y, w, h, fill)
        self.text(x + w / 2, y + h / 2 + size * 0.36, words, size, "middle", mono=mono)

    def cells(self, x, y, w, h, row, fills=PALE, size=14):
        for i, words in enumerate(row):
            fill = fills if isinstance(fills, str) else fills[i]
            self.cell(x + i * w, y, w, h, words, fill, size)

    def arrow(self, x1, y1, x2, y2):
        self.parts.append(
            f'<path d="M{x1} {y1}L{x2} {y2}" stroke="{INK}" stroke-width="1.5" fill="none" '
            'marker-end="url(#tip)"/>'
        )

    def save(self, name):
        path = pathlib.Path(__file__).parent / name
        path.write_text("\n".join([*self.parts, "</svg>", ""]))


def panel():
    """Bytes to panel."""
    d = Drawing("From weights to bytes to a panel", 490)
    d.text(24, 34, "1. Four weights of a row are one byte.", bold=True)
    colours = [BLUE, GREEN, ORANGE, VIOLET]
    d.cells(24, 48, 60, 30, ["-1", "0", "+1", "+1"], colours)
    d.arrow(272, 63, 318, 63)
    d.cells(326, 48, 46, 30, ["10", "00", "01", "01"], colours)
    d.text(528, 68, "-1 is 10, 0 is 00, +1 is 01;")
    d.text(528, 88, "the first weight is in the top bits.")

    d.text(24, 128, "2. A matrix is rows of bytes.", bold=True)
    d.text(470, 128, "3. A panel is 64 rows, transposed.", bold=True)
    names = ["row 0", "row 1", "row 2", "...", "row 63"]
    rows = ["0", "1", "2", "...", "63"]
    strips = [BLUE, GREEN, ORANGE, PALE]
    for i, (name, row) in enumerate(zip(names, rows)):
        y = 152 + 34 * i
        d.text(84, y + 21, name, anchor="end")
        for k, fill in enumerate(strips):
            words = "..." if "..." in row or k == 3 else f"r{row} b{k}"
            d.cell(94 + 72 * k, y, 72, 30, words, fill)
    d.arrow(392, 226, 450, 226)
    for k, fill in enumerate(strips):
        y = 152 + 34 * k
        d.text(532, y + 21, f"strip {k}" if k < 3 else "...", anchor="end")
        for i, row in enumerate(rows):
            words = "..." if "..." in row or k == 3 else f"r{row} b{k}"
            d.cell(540 + 61 * i, y, 61, 30, words, fill)
    d.text(540, 308, "A strip is 64 bytes, one cache line.")

    d.text(24, 362, "4. Panels follow one another in memory.", bold=True)
    for i, words in enumerate(
        ["panel 0: rows 0 to 63", "panel 1: rows 64 to 127", "panel 2: rows 128 to 191", "..."]
    ):
        d.cell(24 + 216 * i, 378, 216 if i < 3 else 160, 34, words, PALE, 15, mono=False)
    d.text(24, 444, "Rows are padded with zeros to a multiple of 64, strips to a multiple of 3. Every kernel reads this")
    d.text(24, 466, "layout. Rows can be sliced at a panel without copying, and a file of panels can be mapped.")
    d.save("panel.svg")


def few():
    """Few tokens: the register table."""
    d = Drawing("Few tokens: the packed bits are the index into a table in a register", 676)
    d.text(24, 34, "1. The table: the 27 signed sums of three activations, at 64 places, in one register.", bold=True)
    d.text(24, 62, "The place of a sum is the six bits of the three weights' codes:")
    entries = [("00 00 00", "0"), ("00 00 01", "+x2"), ("00 00 10", "-x2"), ("00 01 00", "+x1"), ("...", "..."),
               ("10 01 01", "-x0+x1+x2"), ("...", "...")]
    widths = [92, 92, 92, 92, 52, 148, 52]
    x = 110
    d.text(96, 92, "place", anchor="end")
    d.text(96, 122, "sum", anchor="end")
    for (place, total), w in zip(entries, widths):
        d.text(x + w / 2, 92, place, 14, "middle", mono=True)
        d.cell(x, 102, w, 30, total, GREEN)
        x += w
    d.text(24, 158, "Building it takes additions only, and it serves all rows of the matrix. An int8 sum needs more than")
    d.text(24, 178, "a byte: its low and its high part have a table each. In f32 a register has 16 places, for two weights.")

    d.text(24, 236, "2. The index: three strips of a panel are twelve weights of each row, four indices.", bold=True)
    letters = ["aabbccdd", "eeffgghh", "iijjkkll"]
    fills = [BLUE, ORANGE, VIOLET]
    for i, (byte, fill) in enumerate(zip(letters, fills)):
        y = 256 + 44 * i
        d.text(24, y + 21, f"byte {i} of a row")
        d.cell(150, y, 46, 30, byte[:2], PALE)
        d.cell(196, y, 108, 30, byte[2:], fill)
        d.arrow(310, y + 15, 388, y + 15)
        d.text(398, y + 20, f"index {i} =")
        d.cell(486, y, 108, 30, byte[2:], fill)
    y = 256 + 44 * 3
    d.text(24, y + 21, "the rest")
    d.cells(150, y, 46, 30, ["aa", "ee", "ii"], PALE)
    d.arrow(310, y + 15, 388, y + 15)
    d.text(398, y + 20, "index 3 =")
    d.cell(486, y, 108, 30, "aaeeii", PALE)
    d.text(618, 276, "Six bits as they lie in the byte.")
    d.text(618, 298, "Nothing is unpacked: vpermb")
    d.text(618, 320, "ignores the upper two bits.")

    d.text(24, 464, "3. The look-up: one shuffle serves 64 rows, one addition adds their sums.", bold=True)
    d.text(24, 502, "indices (one strip)")
    d.cells(220, 484, 90, 30, ["row 0", "row 1", "row 2", "...", "row 63"], BLUE)
    for i in (0, 1, 2, 4):
        d.arrow(265 + 90 * i, 516, 265 + 90 * i, 542)
    d.text(690, 534, "vpermb", mono=True, size=14)
    d.text(24, 564, "signed sums")
    d.cells(220, 546, 90, 30, ["s0", "s1", "s2", "...", "s63"], GREEN)
    for i in (0, 1, 2, 4):
        d.arrow(265 + 90 * i, 578, 265 + 90 * i, 604)
    d.text(690, 596, "vpaddb", mono=True, size=14)
    d.text(24, 626, "accumulators")
    d.cells(220, 608, 90, 30, ["row 0", "row 1", "row 2", "...", "row 63"], PALE)
    d.text(690, 628, "3 weights x 64 rows")
    d.save("few.svg")


def place(row, lanes):
    """`place` of kernels/many/expand.rs, for words of four bytes."""
    part, lane = divmod(row // 16, lanes)
    return 16 * lanes * part + 4 * (lanes * (row % 16 // 4) + lane) + row % 4


def many():
    """Many tokens: tables in cache, and the order that unpacking leaves."""
    d = Drawing("Many tokens: 81 signed-sum vectors a strip, one load-add a byte", 1090)
    d.text(24, 34, "1. The tables: for each strip of a chunk, the 81 signed sums of its four activations.", bold=True)
    d.text(24, 58, "An entry is 64 bytes with a lane a token: 32 tokens of int8 in lanes of 16 bits, or 16 tokens of f32.")
    for k, fill in enumerate([BLUE, GREEN, ORANGE]):
        x = 40 + 272 * k
        d.text(x, 88, ["T[0]: strip 0, x0 to x3", "T[1]: strip 1, x4 to x7", "... T[11]: strip 11, x44 to x47"][k])
        a = [0, 4, 44][k]
        b = a + 3
        for i, words in enumerate(["0", f"+x{b}", f"-x{b}", "...", "".join(f"-x{j}" for j in range(a, b + 1))]):
            number = ["0", "1", "2", "...", "80"][i]
            d.text(x + 24, 117 + 28 * i, number, 14, "end")
            d.cell(x + 30, 98 + 28 * i, 196, 28, words, fill)

    d.text(24, 278, "2. The load-add: a byte of row r says which entry of the strip's table is added.", bold=True)
    d.text(24, 312, "row r of the chunk")
    d.cells(176, 294, 92, 30, ["byte 0", "byte 1", "byte 2", "...", "byte 11"], [BLUE, GREEN, PALE, PALE, ORANGE])
    d.text(660, 314, "four weights each")
    for i in (0, 1, 4):
        d.arrow(222 + 92 * i, 326, 222 + 92 * i, 350)
    d.text(24, 372, "index, 0 to 80")
    d.cells(176, 354, 92, 30, ["7", "52", "...", "...", "80"], [BLUE, GREEN, PALE, PALE, ORANGE])
    for i in (0, 1, 4):
        d.arrow(222 + 92 * i, 386, 222 + 92 * i, 410)
    d.text(24, 432, "sums of row r")
    d.box(176, 414, 460, 30)
    d.text(406, 434, "+= T[0][7]  += T[1][52]  ...  += T[11][80]", 14, "middle", mono=True)
    d.text(660, 434, "12 load-adds")

    d.text(24, 486, "3. The indices: four strips become one word a row, by unpacking.", bold=True)
    d.text(24, 510, "Each byte first becomes its index. Then a word, loaded once, serves four look-ups. Unpacking works")
    d.text(24, 530, "in lanes of 16 bytes. This is the first one; the next ones do the same with rows 16 to 31, and so on.")
    quads = [("a", BLUE), ("b", GREEN), ("c", ORANGE), ("d", VIOLET)]
    for i, (name, fill) in enumerate(quads):
        y = 548 + 30 * i
        d.text(24, y + 19, f"strip {i}")
        d.cells(88, y, 42, 26, [f"{name}0", f"{name}1", f"{name}2", f"{name}3", "...", f"{name}15"], fill)
    d.arrow(352, 606, 420, 606)
    d.text(386, 596, "bytes", 14, "middle")
    pairs = [("ab", [BLUE, GREEN]), ("cd", [ORANGE, VIOLET])]
    for i, (pair, fills) in enumerate(pairs):
        y = 568 + 44 * i
        low = [f"{pair[j % 2]}{j // 2}" for j in range(4)] + ["...", f"{pair[1]}7"]
        d.cells(428, y, 40, 26, low, [*(fills * 2), PALE, fills[1]])
        d.text(680, y + 18, f"{pair} low: rows 0 to 7", 14)
    d.arrow(548, 646, 548, 672)
    d.text(560, 666, "16-bit pairs", 14)
    row = [f"{'abcd'[j % 4]}{j // 4}" for j in range(16)]
    d.cells(88, 678, 42, 28, row, [fill for _, fill in quads] * 4)
    for i in range(4):
        d.box(88 + 168 * i, 678, 168, 28, "none", INK)
        d.text(172 + 168 * i, 726, f"word of row {i}", 14, "middle")

    d.text(24, 770, "4. The order: where each row's word, and its sums, end up.", bold=True)
    d.text(24, 794, "A number is a row. Sums stay in this order until the panel is finished, so that words and sums are")
    d.text(24, 814, "both read straight on. place() in kernels/many/expand.rs is this picture.")
    lanes16 = [BLUE, GREEN, ORANGE, VIOLET]
    for (lanes, title, x0) in [(4, "AVX-512: 4 vectors of 4 lanes", 24), (2, "AVX2: 8 vectors of 2 lanes", 556)]:
        d.text(x0, 846, title)
        order = sorted(range(64), key=lambda r: place(r, lanes))
        for v in range(16 // lanes):
            for lane in range(lanes):
                first = order[4 * (lanes * v + lane)]
                d.cell(x0 + 120 * lane, 858 + 26 * v, 120, 26, f"{first} to {first + 3}", lanes16[first // 16])
    d.text(24, 994, "Each colour is a lane of 16 rows of the strip.", 15)
    d.text(24, 1014, "NEON's vectors have one lane: rows stay in order.", 15)
    d.save("many.svg")


def loops():
    """The loop nest."""
    d = Drawing("The loops and what lives in which cache", 672)
    colours = {"registers": PALE, "L1": BLUE, "L2": GREEN, "L3 or memory": ORANGE}
    x = 24
    d.text(x, 34, "Where the data of a loop lives:", bold=True)
    x = 304
    for name, fill in colours.items():
        d.box(x, 20, 22, 20, fill)
        d.text(x + 30, 35, name)
        x += 62 + 9 * len(name)
    columns = [
        (24, "Many tokens", [
            ("for 32 tokens (int8) or 16 (f32)", "activations of the tile", "L3 or memory"),
            ("for block of panels", "sums: half of L2", "L2"),
            ("for group of weights along K", "output, scaled when a group ends", "L3 or memory"),
            ("for chunk of 12 strips", "its 12 tables: 62 KB", "L2"),
            ("for panel of the block", "its bytes, prefetched", "L3 or memory"),
            ("expand bytes to words", "words: 1.5 KiB at most", "L1"),
            ("for two rows", "their sums", "registers"),
            ("12 load-adds each", "lines of the tables", "L1"),
        ]),
        (446, "Few tokens", [
            ("for block of panels", "sums: an eighth of L2", "L2"),
            ("for group of weights along K", "output, scaled when a group ends", "L3 or memory"),
            ("for chunk along K", "its tables: half of L2", "L2"),
            ("for 4 panels (or 2 or 1)", "their bytes, prefetched", "L3 or memory"),
            ("for token (or two)", "its tables", "L2"),
            ("for strip (or three)", "tables in use", "registers"),
            ("shuffle and add", "sums of 64 rows", "registers"),
        ]),
    ]
    for x0, title, rows in columns:
        d.text(x0, 78, title, 17, bold=True)
        for i, (loop, data, level) in enumerate(rows):
            x, y = x0 + 10 * i, 92 + 58 * i
            d.box(x, y, x0 + 390 - x, 58 * (len(rows) - i) + 2, "none", "#9aa3ad", round=4)
            d.text(x + 8, y + 21, loop, 15)
            d.box(x + 20, y + 28, 360 - 10 * i, 24, colours[level], "#9aa3ad")
            d.text(x + 28, y + 45, data, 14)
    d.text(24, 602, "Each worker runs such a nest on tiles of the output, rows x tokens. With one token there is one")
    d.text(24, 624, "chunk, as long as K: streams of panels pass by once, and nothing of them is kept. On Zen 5 an int8")
    d.text(24, 646, "chunk has 30 strips (its 80 KiB of tables are looked up in registers), an f32 chunk has 8 (41 KB, in L1).")
    d.save("loops.svg")


for draw in (panel, few, many, loops):
    draw()
