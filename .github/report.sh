#!/usr/bin/env bash
# This checkout beside another revision, as Markdown: .github/report.sh BASE FILE
# Reproduces what the checkout changed, so that the figures are its own.
set -euo pipefail
base=$1 file=$2

dvc pull --quiet --allow-missing || true # what nobody pushed is made below
doctor=$(imclass doctor || true)
ran=$(dvc repro --pull --allow-missing | tee /dev/stderr | sed -n "s/^Running stage '\(.*\)':$/\1/p")

section() { # TITLE COMMAND...: nothing where its table has no rows
    local text
    text=$("${@:2}")
    [ "$(grep -c '^|' <<<"$text")" -le 2 ] || printf '\n### %s\n\n%s\n' "$1" "$text"
}

{
    printf '## Compared with `%s`\n\nStages that ran: %s\n' "$base" "${ran:-none, all results were there}"
    section Parameters dvc params diff --md "$base"
    section Metrics dvc metrics diff --md "$base"
    printf '\n'
    imclass diff "$base" --md || printf 'The data of `%s` could not be read.\n' "$base"
    [ "$doctor" = "nothing found" ] || printf '\n### imclass doctor\n\n```\n%s\n```\n' "$doctor"
} >"$file"
dvc plots diff --out dvc_plots "$base" >/dev/null
