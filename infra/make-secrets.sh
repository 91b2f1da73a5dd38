#!/bin/sh
# Writes fresh random secrets for an overlay to render: make-secrets.sh [FOLDER]
# Files that exist are kept, so that a second call changes nothing.
set -eu
folder=${1:-$(dirname "$0")/secrets}
umask 077

random() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }

if [ ! -e "$folder/database.env" ]; then
  password=$(random)
  cat > "$folder/database.env" <<END
password=$password
catalog-url=postgresql+psycopg://interloom:$password@interloom-postgres:5432/catalog
prefect-url=postgresql+asyncpg://interloom:$password@interloom-postgres:5432/prefect
END
fi
if [ ! -e "$folder/prefect.env" ]; then
  echo "auth-string=interloom:$(random)" > "$folder/prefect.env"
fi
if [ ! -e "$folder/s3.env" ] || [ ! -e "$folder/s3.json" ]; then
  access=$(random) secret=$(random)
  printf 'access-key=%s\nsecret-key=%s\n' "$access" "$secret" > "$folder/s3.env"
  cat > "$folder/s3.json" <<END
{"identities": [{"name": "interloom", "credentials": [{"accessKey": "$access", "secretKey": "$secret"}],
  "actions": ["Admin", "Read", "Write", "List", "Tagging"]}]}
END
fi
echo "secrets are in $folder"
