"""Configuration of the documentation: Sphinx, MyST-NB and furo; see `development/documentation`."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import pages  # noqa: E402

import rlkl  # noqa: E402

project = "rlkl"
author = copyright = "The rlkl authors"
version = release = rlkl.__version__

extensions = ["myst_nb", "sphinx_copybutton", "sphinx_design"]
exclude_patterns = ["_build", "_notebooks", "__pycache__"]
nitpicky = True
add_module_names = False
python_maximum_signature_line_length = 88

myst_enable_extensions = ["colon_fence", "deflist", "attrs_inline"]
myst_heading_anchors = 4
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 120
nb_execution_in_temp = True
nb_merge_streams = True

html_theme = "furo"
html_title = "rlkl"
html_static_path = ["_static"]
html_css_files = ["rlkl.css"]
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {"navigation_with_keys": True, "top_of_page_buttons": []}
copybutton_prompt_text = r"^\$ "
copybutton_prompt_is_regexp = True


def setup(app):
    """Render pages as Jinja templates before they are parsed, and write each tutorial as a notebook to download."""
    app.connect("builder-inited", lambda app: pages.write_notebooks(HERE / "tutorials", HERE / "_notebooks"))
    app.connect("source-read", pages.render)
