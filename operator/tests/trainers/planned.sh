#!/bin/sh
# A trainer that does what the file `plan` beside the manifest says: line n is what attempt n does.
#   ok            complete        CODE          exit with that code
#   noted         complete, with something to be known
#   wait          run until SIGTERM, then exit 143 with a checkpoint at step 42
#   stubborn      run and ignore SIGTERM
say() { printf '%s' "$1" > "$TRAINYARD_TERMINATION_LOG"; }
attempt=$(printf '%s' "$TRAINYARD_ASSIGNMENT" | sed 's/.*"attempt":\([0-9]*\).*/\1/')
member=$(printf '%s' "$TRAINYARD_ASSIGNMENT" | sed 's/.*"member":\([0-9]*\).*/\1/')
started() { echo "$$" > "started-$attempt-$member"; }
echo "attempt $attempt of member $member, arguments $*"
env | sort > "environment-$attempt-$member"
case "$(sed -n "${attempt}p" plan)" in
ok)
    started
    say '{"contractVersion":1,"cause":"Completed","message":"","result":{"uri":"file:///out/model","metricName":"accuracy","metric":0.99}}'
    exit 0
    ;;
noted)
    started
    say '{"contractVersion":1,"cause":"Completed","message":"","result":{"uri":"file:///out/model","note":"2 findings about the data: see the report"}}'
    exit 0
    ;;
wait)
    trap 'say "{\"contractVersion\":1,\"cause\":\"Preempted\",\"step\":42,\"message\":\"stopped at step 42\"}"; exit 143' TERM
    started
    while :; do sleep 0.05; done
    ;;
stubborn)
    trap '' TERM
    started
    while :; do sleep 0.05; done
    ;;
65)
    say '{"contractVersion":1,"cause":"BadData","rank":0,"message":"a.png is no image","hint":"Remove it."}'
    exit 65
    ;;
*) exit "$(sed -n "${attempt}p" plan)" ;;
esac
