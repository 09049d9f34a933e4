#!/usr/bin/env bash
# Starts, stops and shows a Phalanx cluster on this machine:
#
#   ./run.sh [start|stop|status|fresh|clean] [--nodes N] [--lab] [--terminal auto|mac|gnome|konsole|xterm|tmux|none]
#
# Here is what only macOS has: windows of Terminal.app. Everything else is in run-unix.sh.

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

wants_mac() {
  [ "$(uname -s)" = Darwin ] && return 0
  case " $* " in *' --terminal mac '* | *' --terminal=mac '*) return 0 ;; esac
  return 1
}

wants_mac "$@" || exec bash "$here/run-unix.sh" "$@"

# shellcheck source=run-unix.sh
. "$here/run-unix.sh"

# Opens a window of Terminal.app that runs a launcher. The path is quoted for the shell, then for AppleScript.
open_mac() {
  local command
  command="bash $(printf %q "$2"); exit"
  command=${command//\\/\\\\}
  command=${command//\"/\\\"}
  osascript -e "tell application \"Terminal\" to do script \"$command\"" >/dev/null
}

main "$@"
