#!/usr/bin/env bash
exec "$(dirname "$0")/../run.sh" gpt2_stdlib,gpt2_stdlib_depth "${OUT:-experiments}" "$@"
