#!/bin/bash
# Makes certificates, signed images and signature lists in DIR with openssl, sbsign, osslsigncode and
# efitools, and asks sbverify and osslsigncode for their verdicts: see README.md.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1" && cd "$1"
base=$here/../../../measure/uki/testdata/authenticode/uki.efi
keys=$(mktemp -d); trap 'rm -rf "$keys"' EXIT

# cert NAME ISSUER EXTENSIONS [KEY OPTIONS]: ISSUER is NAME itself or another one's
cert() {
	local name=$1 issuer=$2 ext=$3; shift 3
	[ $# -gt 0 ] || set -- -newkey rsa:2048
	openssl req -new -nodes "$@" -keyout "$keys/$name.key" -subj "/CN=mkexec test $name" -out "$keys/$name.csr" 2>/dev/null
	local by=(-CA "$issuer.pem" -CAkey "$keys/$issuer.key" -set_serial "0x$(openssl rand -hex 8)")
	[ "$name" != "$issuer" ] || by=(-signkey "$keys/$name.key")
	openssl x509 -req -sha256 -days "${DAYS:-36500}" -in "$keys/$name.csr" "${by[@]}" -extfile <(echo "$ext") -out "$name.pem" 2>/dev/null
}
authority=$'basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign,digitalSignature'
signer=$'basicConstraints=CA:FALSE\nextendedKeyUsage=codeSigning'

cert self self "$signer"
cert other other "$signer"
cert ca ca "$authority"
cert inter ca "$authority"
cert leaf inter "$signer"
cert direct ca "$signer"
cert nopurpose ca $'basicConstraints=CA:FALSE\nextendedKeyUsage=serverAuth'
cert modsign modsign $'basicConstraints=CA:FALSE\nextendedKeyUsage=codeSigning,1.3.6.1.4.1.2312.16.1.2'
cert notca ca "$signer"
cert badleaf notca "$signer"
cert rsa1024 rsa1024 "$signer" -newkey rsa:1024
cert ec ec "$signer" -newkey ec -pkeyopt ec_paramgen_curve:P-256
export FAKETIME='2015-03-04 05:06:07'
DAYS=30 LD_PRELOAD=$(ls /usr/lib/*/faketime/libfaketime.so.1) cert expired ca "$signer"
unset FAKETIME

sb() { local key=$1 in=$2 out=$3; shift 3; sbsign --key "$keys/$key.key" --cert "$key.pem" "$@" --output "$out" "$in" >/dev/null 2>&1; }
ossl() { local key=$1 out=$2; shift 2; osslsigncode sign "$@" -certs "$key.pem" -key "$keys/$key.key" -in "$base" -out "$out" >/dev/null; }

cp "$base" unsigned.efi
for name in self direct nopurpose modsign expired rsa1024; do sb $name "$base" $name.efi; done
sb leaf "$base" chain.efi --addcert inter.pem
sb leaf "$base" nointer.efi
sb badleaf "$base" badchain.efi --addcert notca.pem
sb direct self.efi dual.efi           # two entries in the table
sb direct "$here/../../../measure/uki/testdata/authenticode/tail.efi" tail.efi
ossl ec ec.efi -h sha256
for h in sha1 sha384 sha512; do ossl self $h.efi -h $h; done

# at OFFSET BYTES FILE: overwrites
at() { printf "$2" | dd of="$3" bs=1 seek="$1" conv=notrunc status=none; }
size=$(stat -c %s "$base")
for name in tampered forged checksum stripped; do cp self.efi $name.efi; done
at $((size - 512)) X tampered.efi           # in the last section
at $(($(stat -c %s self.efi) - 9)) X forged.efi # in the signature's number
at $((0x40 + 4 + 20 + 64)) XXXX checksum.efi    # CheckSum, which is not signed
at $((0x40 + 4 + 20 + 144)) '\0\0\0\0\0\0\0\0' stripped.efi
{ cat self.efi; printf '\0\0\0\0\0\0\0\0'; } > padded.efi
{ cat self.efi; printf 'appended'; } > appended.efi
sbattach --detach "$keys/sig" self.efi
cp "$here/../../../measure/uki/testdata/authenticode/minimal.efi" transplant.efi
sbattach --attach "$keys/sig" transplant.efi 2>/dev/null

# what sbverify and osslsigncode say: 0 is yes
while read -r image anchor; do
	s=0; sbverify --cert "$anchor.pem" "$image.efi" >/dev/null 2>&1 || s=1
	o=0; osslsigncode verify -CAfile "$anchor.pem" -in "$image.efi" >/dev/null 2>&1 || o=1
	echo "$image $anchor sbverify=$s osslsigncode=$o"
done > verdicts.txt < "$here/matrix.txt"

owner=77fa9abd-0359-4d32-bd60-28f4e78f784b
for name in self direct inter ca leaf; do
	cert-to-efi-sig-list -g $owner $name.pem $name.x509.esl
	for bits in 256 384 512; do cert-to-efi-hash-list -g $owner -s $bits $name.pem $name.tbs$bits.esl >/dev/null; done
done
hash-to-efi-sig-list self.efi self.image.esl >/dev/null
hash-to-efi-sig-list unsigned.efi unsigned.image.esl >/dev/null
cat self.x509.esl ca.x509.esl self.tbs256.esl unsigned.image.esl > mixed.esl
