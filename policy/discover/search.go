package discover

import (
	"errors"
	"io/fs"
	"path"
	"slices"
)

// configDirs is where systemd looks for configuration, in this order
// (CONF_PATHS("systemd"), systemd 262, src/basic/constants.h).
var configDirs = []string{"/etc/systemd", runDir, "/usr/local/lib/systemd", "/usr/lib/systemd"}

// runDir is empty when a system starts.
const runDir = "/run/systemd"

// pcrlockDirs is where systemd looks for pcrlock.json (systemd 262,
// src/shared/tpm2-util.c, tpm2_pcrlock_search_file()).
var pcrlockDirs = []string{runDir, "/var/lib/systemd"}

// SignatureFile returns the file with signed PCR policies that systemd takes
// after the initrd where none is named, the first that is there (systemd 262,
// src/shared/tpm2-util.c, tpm2_load_pcr_signature()). The next system has another
// file in /run than this one: that of its image, if image says that it has one.
// "" if that is the first, or if there is none.
//
// What systemd takes in the initrd is not known from here, but for the image's.
func SignatureFile(root fs.FS, image bool) string {
	at := slices.Index(configDirs, runDir)
	if path := first(root, configDirs[:at], "tpm2-pcr-signature.json"); path != "" || image {
		return path
	}
	return first(root, configDirs[at+1:], "tpm2-pcr-signature.json")
}

// PublicKeyFile returns the file with the key that signs PCR policies, the first
// that is there, "" for none (tpm2_load_pcr_public_key(), the same file).
func PublicKeyFile(root fs.FS) string { return first(root, configDirs, "tpm2-pcr-public-key.pem") }

// PCRLockFile returns the policy of systemd-pcrlock, "" for none.
func PCRLockFile(root fs.FS) string { return first(root, pcrlockDirs, "pcrlock.json") }

// first returns the path of the first of dirs that has the file, "" if none
// has. A file that is there but cannot be looked at is there.
func first(root fs.FS, dirs []string, name string) string {
	for _, dir := range dirs {
		file := path.Join(dir, name)
		if _, err := fs.Stat(root, file[1:]); !errors.Is(err, fs.ErrNotExist) {
			return file
		}
	}
	return ""
}
