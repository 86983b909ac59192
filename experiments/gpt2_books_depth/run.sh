#!/usr/bin/env bash
exec "$(dirname "$0")/../run.sh" gpt2_books,gpt2_books_depth "${OUT:-experiments}" "$@"
