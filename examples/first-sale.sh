#!/bin/sh
# Prints a small sale of ten named seats, for docs/quickstart.md: it opens in a minute and is open for half an hour.
#
#   examples/first-sale.sh | kubectl apply -f -
#
# The ledger is examples/core-ledger.yaml. Names and times are all that is special; examples/seated.yaml is the same with
# a date.
set -eu

# in_minutes N: that time as Kubernetes writes it, with GNU's date or with that of BSD and macOS.
in_minutes() {
  date -u -d "+$1 minutes" +%Y-%m-%dT%H:%M:%SZ 2> /dev/null || date -u -v "+$1M" +%Y-%m-%dT%H:%M:%SZ
}

cat << YAML
apiVersion: v1
kind: ConfigMap
metadata: {name: first-sale-seats}
data:
  seats.csv: |
    resource_id,label
    0b8f6a10-5d2c-4a57-9e0f-6a1d3c2b0001,A-1
    0b8f6a10-5d2c-4a57-9e0f-6a1d3c2b0002,A-2
    0b8f6a10-5d2c-4a57-9e0f-6a1d3c2b0003,A-3
    0b8f6a10-5d2c-4a57-9e0f-6a1d3c2b0004,A-4
    0b8f6a10-5d2c-4a57-9e0f-6a1d3c2b0005,A-5
    0b8f6a10-5d2c-4a57-9e0f-6a1d3c2b0006,B-1
    0b8f6a10-5d2c-4a57-9e0f-6a1d3c2b0007,B-2
    0b8f6a10-5d2c-4a57-9e0f-6a1d3c2b0008,B-3
    0b8f6a10-5d2c-4a57-9e0f-6a1d3c2b0009,B-4
    0b8f6a10-5d2c-4a57-9e0f-6a1d3c2b0010,B-5
---
apiVersion: intake-engine.io/v1alpha1
kind: IntakeEvent
metadata: {name: first-sale}
spec:
  pool: first-sale-night-1           # the sale's name in DB1 and in the ledger
  inventorySize: 10
  batchSize: 10
  inventory:
    configMapRef: {name: first-sale-seats, key: seats.csv}
  window: {opensAt: "$(in_minutes 1)", closesAt: "$(in_minutes 31)"}
  commitTarget:
    postgres:
      secretRef: {name: core-ledger, key: uri}
  teardown: {keepMinutes: 0}         # DB1 goes as soon as the sale is proven
YAML
