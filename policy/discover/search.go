package discover

import (
	"errors"
	"io/fs"
	"path"
)

// configDirs is where systemd looks for configuration, in this order
// (CONF_PATHS("systemd"), systemd 262, src/basic/constants.h).
var configDirs = []string{"/etc/systemd", "/run/systemd", "/usr/local/lib/systemd", "/usr/lib/systemd"}

// pcrlockDirs is where systemd looks for pcrlock.json (systemd 262,
// src/shared/tpm2-util.c, tpm2_pcrlock_search_file()).
var pcrlockDirs = []string{"/run/systemd", "/var/lib/systemd"}

// SignatureFiles returns the files with signed PCR policies and with the public
// key that systemd takes where none is named, each the first that is there, ""
// for none (systemd 262, src/shared/tpm2-util.c, tpm2_load_pcr_signature() and
// tpm2_load_pcr_public_key()).
//
// They are what this system takes. The next one has other files in /run, which
// come from .pcrsig and .pcrpkey of its image, and other ones while it is in its
// initrd.
func SignatureFiles(root fs.FS) (signature, publicKey string) {
	return first(root, configDirs, "tpm2-pcr-signature.json"), first(root, configDirs, "tpm2-pcr-public-key.pem")
}

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
