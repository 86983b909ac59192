#!/usr/bin/env bash
exec "$(dirname "$0")/../run.sh" vit_cifar10 "${OUT:-experiments}" "$@"
