#!/bin/bash
# record.sh ROOT OUT: encrypts credentials with the systemd-creds that is in the
# directory ROOT and with the one of the host, and tries to decrypt each in
# several TPM states. README.md says what is written to OUT.
#
# Wants root, swtpm, tpm2-tools, openssl, jq; in ROOT systemd-creds 262,
# systemd-measure and systemd-pcrextend. Nothing outside of ROOT/tmp/creds and
# OUT is changed: /run and /sys of ROOT are hidden.
set -eu
if [ "${3-}" != inside ]; then exec unshare -m "$0" "$1" "$2" inside; fi
root=$1 out=$2 dir=/tmp/creds
work=$root$dir
rm -rf "$work"; mkdir -p "$work/tpm" "$out"
mount -t tmpfs none "$root/run"
mount -t tmpfs none "$root/sys"
# what systemd-measure --current reads: PCR 11 is zero before the words
for b in sha1:40 sha256:64 sha384:96; do
	mkdir -p "$root/sys/class/tpm/tpm0/pcr-${b%:*}"
	printf "%0${b#*:}d\n" 0 >"$root/sys/class/tpm/tpm0/pcr-${b%:*}/11"
done
cd "$work"
export TPM2TOOLS_TCTI=swtpm:path=$work/tpm/sock
device=swtpm:path=$dir/tpm/sock

start() {
	swtpm socket --tpm2 --tpmstate "dir=$work/tpm" --server "type=unixio,path=$work/tpm/sock" \
		--ctrl "type=unixio,path=$work/tpm/sock.ctrl" --flags not-need-init,startup-clear >swtpm.log 2>&1 &
	swtpm=$!
	while [ ! -S "$work/tpm/sock" ]; do sleep 0.1; done
}
stop() { tpm2_shutdown -c; kill $swtpm; wait $swtpm || true; rm -f "$work/tpm/sock"; }
trap 'kill $swtpm 2>/dev/null; umount "$root/run" "$root/sys"' EXIT

in262() { chroot "$root" env SYSTEMD_CREDENTIAL_SECRET=$dir/secret SYSTEMD_FORCE_MEASURE=1 SYSTEMD_MEASURE_LOG_FIRMWARE=/dev/null "$@"; }
in252() { env SYSTEMD_CREDENTIAL_SECRET="$work/secret252" "$@"; }
flush() { tpm2_flushcontext -l; tpm2_flushcontext -t; tpm2_flushcontext -s; } # there is no resource manager

# state NAME: a reset, then an event in PCR 7 and words in PCR 11
state() {
	stop; rm -rf "$root/run/log"; start
	case $1 in
	A) set -- x enter-initrd ;;
	B) set -- x enter-initrd leave-initrd ;;
	C) set -- y enter-initrd ;;
	D) set -- x garbage ;;
	esac
	printf %s "$1" >event; tpm2_pcrevent 7 event >/dev/null
	shift
	for w; do in262 /usr/lib/systemd/systemd-pcrextend --tpm2-device=$device "$w" >/dev/null 2>&1; done
}
pcrs() {
	tpm2_pcrread sha1:7,11+sha256:7,11+sha384:7,11 |
		sed -nE 's/^  (sha[0-9]+):/\1/p; s/^ +([0-9]+) *: 0x(.*)/\1 \L\2/p' |
		awk '/^sha/ {b=$1; next} {print b, $1, $2}' |
		jq -Rn '[inputs / " "] | reduce .[] as [$b, $n, $v] ({}; .[$b][$n] = $v)'
}

openssl genrsa -out key.pem 2048 2>/dev/null; openssl rsa -in key.pem -pubout -out pub.pem 2>/dev/null
openssl genrsa -3 -out key3.pem 2048 2>/dev/null; openssl rsa -in key3.pem -pubout -out pub3.pem 2>/dev/null
openssl ecparam -name prime256v1 -genkey -noout -out keyec.pem; openssl ec -in keyec.pem -pubout -out pubec.pem 2>/dev/null
# signatures for states A, B and C by key.pem, for none by the others
in262 /usr/lib/systemd/systemd-measure sign --current --bank=sha256 --bank=sha1 --bank=sha384 --json=short \
	--phase=enter-initrd --phase=enter-initrd:leave-initrd --private-key=$dir/key.pem --public-key=$dir/pub.pem >sig.json
cp sig.json "$out/signature.json"
echo secret >plain

# new NAME OPTION..., old NAME OPTION...: encrypt with 262, with the host's
new() {
	name=$1; shift; flush
	in262 systemd-creds encrypt -q --name=x --tpm2-device=$device "$@" $dir/plain $dir/$name.new >$name.log 2>&1 || { echo "$name: $(tail -1 $name.log)"; rm -f $name.new; }
}
old() {
	name=$1; shift; flush
	in252 systemd-creds encrypt --name=x --tpm2-device=swtpm:path="$work/tpm/sock" "$@" plain $name.old >$name.log 2>&1 || { echo "$name: $(tail -1 $name.log)"; rm -f $name.old; }
}
pk="--tpm2-public-key=$dir/pub.pem"
start
state A
new null --with-key=null
new host --with-key=host
new host-user --with-key=host --user --uid=root
new tpm2 --with-key=tpm2
new tpm2-7 --with-key=tpm2 --tpm2-pcrs=7
new tpm2-7+11 --with-key=tpm2 --tpm2-pcrs=7+11
new host+tpm2-7 --with-key=host+tpm2 --tpm2-pcrs=7
new host+tpm2-user --with-key=host+tpm2 --user --uid=root
new host+tpm2-7-user --with-key=host+tpm2 --tpm2-pcrs=7 --user --uid=root
new pk --with-key=tpm2-with-public-key $pk
new pk-7 --with-key=tpm2-with-public-key $pk --tpm2-pcrs=7
new pk-of-7 --with-key=tpm2-with-public-key $pk --tpm2-public-key-pcrs=7
new pk-other --with-key=tpm2-with-public-key --tpm2-public-key=$dir/pub3.pem
new pk-ec --with-key=tpm2-with-public-key --tpm2-public-key=$dir/pubec.pem
new host+pk --with-key=host+tpm2-with-public-key $pk
new host+pk-7-user --with-key=host+tpm2-with-public-key $pk --tpm2-pcrs=7 --user --uid=root
old null --with-key=tpm2-absent
old host --with-key=host
old tpm2 --with-key=tpm2 --tpm2-pcrs=
old tpm2-7 --with-key=tpm2 --tpm2-pcrs=7
old tpm2-7+11 --with-key=tpm2 --tpm2-pcrs=7+11
old host+tpm2-7 --with-key=host+tpm2 --tpm2-pcrs=7
old pk --with-key=tpm2-with-public-key --tpm2-public-key=pub.pem --tpm2-pcrs=
old pk-7 --with-key=tpm2-with-public-key --tpm2-public-key=pub.pem --tpm2-pcrs=7
old host+pk-7 --with-key=host+tpm2-with-public-key --tpm2-public-key=pub.pem --tpm2-pcrs=7
old pk-other --with-key=tpm2-with-public-key --tpm2-public-key=pub3.pem --tpm2-pcrs=
# in a TPM that has one other bank
for b in sha1 sha384; do
	tpm2_pcrallocate $b:all+$(echo "sha1:none sha256:none sha384:none sha512:none" | tr ' ' '\n' | grep -v "^$b:" | paste -sd+) >/dev/null
	state A
	new $b-7 --with-key=tpm2 --tpm2-pcrs=7
	new $b-pk --with-key=tpm2-with-public-key $pk
	old $b-7 --with-key=tpm2 --tpm2-pcrs=7
done
tpm2_pcrallocate sha1:all+sha256:all+sha384:all+sha512:all >/dev/null

# decrypt FILE: really, with the systemd that made it; true or false
decrypt() {
	flush
	case $1 in
	*-user.new) set -- "$1" --user --uid=root ;;
	null.new) set -- "$1" --allow-null ;;
	esac
	file=$1; shift
	case $file in
	*.new) in262 systemd-creds decrypt -q --name=x --tpm2-device=$device --tpm2-signature=$dir/sig.json "$@" $dir/$file ;;
	*.old) in252 systemd-creds decrypt --name=x --tpm2-device=swtpm:path="$work/tpm/sock" --tpm2-signature=sig.json $file - ;;
	esac >decrypted 2>$file.$s.log && cmp -s plain decrypted && echo true || echo false
}
echo '{}' >result.json
for s in A B C D; do
	state $s
	pcrs >pcrs.json
	jq --arg s $s --slurpfile p pcrs.json '.states[$s] = $p[0]' result.json >r; mv r result.json
	for f in *.new *.old; do
		jq --arg s $s --arg n "$(echo $f | sed 's/\.old$/ (252)/; s/\.new$/ (262)/')" --argjson d "$(decrypt $f)" \
			--rawfile c $f '.credentials[$n].text = $c | .credentials[$n].decrypts[$s] = $d' result.json >r; mv r result.json
	done
done
jq -S . result.json >"$out/result.json"
in262 systemd-creds --version | head -1 >"$out/versions"; systemd-creds --version | head -1 >>"$out/versions"
stop
