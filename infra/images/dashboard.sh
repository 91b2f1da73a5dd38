#!/bin/sh
# Serves the dashboard that the installed package holds.
set -eu
app=$(python -c 'import importlib.util as u; print(u.find_spec("interloom_dashboards").submodule_search_locations[0])')/app.py
exec streamlit run "$app" \
  --server.address=0.0.0.0 --server.port=8501 --server.headless=true \
  --browser.gatherUsageStats=false
