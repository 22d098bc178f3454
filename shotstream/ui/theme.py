"""How the page looks: a puppet theatre in 8 bits, drawn with square corners, hard shadows and system fonts only.

Owns colours, type and the wordmark; the rules that go beyond Gradio's theme variables are in `page.css`.
"""

from __future__ import annotations

from pathlib import Path

import gradio as gr
from gradio.themes.utils import colors, sizes

FOLDER = Path(__file__).parent
CSS = FOLDER / "page.css"
SCRIPTS = tuple(FOLDER / f"{name}.js" for name in ("sending", "playing", "keeping", "stage", "page", "prompting"))
FAVICON = FOLDER / "favicon.png"

SANS = ("system-ui", "Segoe UI", "Roboto", "Helvetica Neue", "Noto Sans", "Arial", "sans-serif")
MONO = ("ui-monospace", "Cascadia Mono", "Menlo", "DejaVu Sans Mono", "Consolas", "monospace")
INK, PAPER, CREAM = "#181020", "#f4ecd8", "#fffaf0"
NIGHT, DUSK, MOON = "#120d1c", "#1f1730", "#f1e8ff"
RED, DEEP_RED, YELLOW = "#e8323c", "#d3222d", "#ffdf38"


def theme() -> gr.themes.Base:
    """The Gradio theme, for light and dark."""
    return gr.themes.Base(
        primary_hue=colors.red,
        secondary_hue=colors.yellow,
        neutral_hue=colors.stone,
        radius_size=sizes.radius_none,
        text_size=sizes.text_md,
        font=SANS,
        font_mono=MONO,
    ).set(
        body_background_fill=PAPER,
        body_background_fill_dark=NIGHT,
        body_text_color=INK,
        body_text_color_dark=MOON,
        body_text_color_subdued="#6b5d63",
        body_text_color_subdued_dark="#a99fc0",
        background_fill_primary=CREAM,
        background_fill_primary_dark=DUSK,
        border_color_primary=INK,
        border_color_primary_dark="#4a3c66",
        block_background_fill="transparent",
        block_background_fill_dark="transparent",
        block_border_width="0px",
        block_border_width_dark="0px",
        block_shadow="none",
        block_padding="0px",
        block_title_text_color=INK,
        block_title_text_color_dark=MOON,
        block_title_text_weight="700",
        block_info_text_color="*body_text_color_subdued",
        block_info_text_color_dark="*body_text_color_subdued",
        input_background_fill=CREAM,
        input_background_fill_dark=DUSK,
        input_background_fill_focus="white",
        input_background_fill_focus_dark="#271d3d",
        input_border_color=INK,
        input_border_color_dark="#4a3c66",
        input_border_color_focus=RED,
        input_border_color_focus_dark=YELLOW,
        input_border_width="2px",
        input_border_width_dark="2px",
        input_shadow="none",
        input_shadow_focus="none",
        input_shadow_focus_dark="none",
        input_placeholder_color="#736662",
        input_placeholder_color_dark="#998db5",
        button_border_width="2px",
        button_border_width_dark="2px",
        button_transition="none",
        button_primary_background_fill=DEEP_RED,
        button_primary_background_fill_dark=DEEP_RED,
        button_primary_background_fill_hover="#b81824",
        button_primary_background_fill_hover_dark="#b81824",
        button_primary_border_color=INK,
        button_primary_border_color_dark="#000000",
        button_primary_text_color="white",
        button_primary_text_color_dark="white",
        button_secondary_background_fill=CREAM,
        button_secondary_background_fill_dark=DUSK,
        button_secondary_background_fill_hover=YELLOW,
        button_secondary_background_fill_hover_dark="#33264e",
        button_secondary_border_color=INK,
        button_secondary_border_color_dark="#4a3c66",
        button_secondary_text_color=INK,
        button_secondary_text_color_dark=MOON,
    )
