# Certificates and kubeconfigs of our own node: one authority, one identity for each component. Key usage and key
# identifiers are there because Python 3.13 checks them.

make_authority() {
  local folder=$1
  mkdir -p "$folder"
  new_key "$folder/ca.key"
  openssl req -x509 -new -key "$folder/ca.key" -days 365 -subj "/CN=$context" -addext keyUsage=critical,keyCertSign,cRLSign \
    -out "$folder/ca.crt"
  new_key "$folder/sa.key"
  openssl ec -in "$folder/sa.key" -pubout -out "$folder/sa.pub" 2> /dev/null
}

new_key() { openssl ecparam -name prime256v1 -genkey -noout -out "$1"; }

# make_identity FOLDER NAME SUBJECT [ALTERNATIVE NAMES]
make_identity() {
  local folder=$1 name=$2 subject=$3 names=${4:-}
  new_key "$folder/$name.key"
  openssl req -new -key "$folder/$name.key" -subj "$subject" |
    openssl x509 -req -CA "$folder/ca.crt" -CAkey "$folder/ca.key" -CAcreateserial -days 365 -out "$folder/$name.crt" -extfile <(
      printf 'extendedKeyUsage=serverAuth,clientAuth\nsubjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n'
      [ -z "$names" ] || echo "subjectAltName=$names"
    ) 2> /dev/null
}

# kubeconfig FOLDER NAME SERVER: self-contained, so that it may be copied anywhere.
kubeconfig() {
  local folder=$1 name=$2 server=$3
  cat << YAML
apiVersion: v1
kind: Config
clusters:
  - {name: $context, cluster: {server: "$server", certificate-authority-data: $(base64 -w 0 "$folder/ca.crt")}}
users:
  - {name: $context-$name, user: {client-certificate-data: $(base64 -w 0 "$folder/$name.crt"), client-key-data: $(base64 -w 0 "$folder/$name.key")}}
contexts:
  - {name: $context, context: {cluster: $context, user: $context-$name}}
current-context: $context
YAML
}
