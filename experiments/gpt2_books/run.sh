#!/usr/bin/env bash
exec "$(dirname "$0")/../run.sh" gpt2_books "${OUT:-experiments}" "$@"
