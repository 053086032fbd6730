#!/bin/sh
# Stands in for the entry point of Apache Kafka's image: properties from the environment, then the broker. The argument
# is the path of Java.
set -eu
file=/tmp/server.properties
env | sed -n 's/^KAFKA_//p' | while IFS='=' read -r name value; do
    echo "$(echo "$name" | tr 'A-Z_' 'a-z.')=$value"
done >"$file"
set -- "$1" -Xmx256m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -cp '/jars/*'
"$@" kafka.tools.StorageTool format --ignore-formatted --cluster-id MkU3OEVBNTcwNTJENDM2Qg --config "$file"
exec "$@" kafka.Kafka "$file"
