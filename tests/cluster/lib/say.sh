# Functions for output: steps with the time they took, a heartbeat under long ones, errors that say what to do.

say() { echo "cluster: $*" >&2; }
die() { echo "cluster: $*" >&2; exit 1; }

# watched TITLE COMMAND...: runs it with its output in a log, says every ten seconds that it still runs, shows the
# log's end if it fails.
watched() {
  local title=$1 log heart code began=$SECONDS
  shift
  log=$(mktemp)
  say "$title"
  (
    trap 'kill $! 2> /dev/null; exit 0' TERM # its sleep would keep a pipe open behind us
    while kill -0 $$ 2> /dev/null; do
      sleep 10 & wait $!
      say "  ... $((SECONDS - began)) s  $(tail -n 1 "$log" | tr -d '\r' | cut -c 1-90)"
    done
  ) &
  heart=$!
  set +e # not `|| code=$?`: inside such a list no failure ends a function
  (set -e; "$@") > "$log" 2>&1 < /dev/null
  code=$?
  set -e
  kill "$heart" 2> /dev/null
  wait "$heart" 2> /dev/null || true
  if [ "$code" != 0 ]; then
    tail -n 40 "$log" >&2
    rm -f "$log"
    die "failed ($code) after $((SECONDS - began)) s: $title"
  fi
  rm -f "$log"
  say "  done in $((SECONDS - began)) s"
}

# wait_for SECONDS TITLE COMMAND...: until it succeeds; SECONDS of a healthy machine, a slow one has four times as many.
wait_for() {
  local seconds=$((4 * $1)) title=$2 deadline
  shift 2
  deadline=$((SECONDS + seconds))
  until "$@" > /dev/null 2>&1; do
    [ "$SECONDS" -lt "$deadline" ] || { say "not within $seconds s: $title"; return 1; }
    sleep 0.1
  done
}
