// Package bls reads the menu of systemd-boot: the entries of the Boot Loader
// Specification (UAPI.1) on the EFI system partition and the extended boot
// loader partition, in systemd-boot's order, with the one that it would start
// by itself and the one that runs.
//
// It follows systemd-boot 262 (src/boot/boot.c) and not bootctl where the two
// differ, since it is systemd-boot that boots. In one thing it is stricter: an
// entry that cannot be used is kept, marked as broken, and where the default
// would be such an entry, or where a broken one hides which entry is first,
// that is an error. systemd-boot passes over it and starts another one.
//
// Not seen are entries that exist only in firmware: those of SMBIOS strings
// (io.systemd.boot.entries-extra=), and Windows, macOS or a shell, which
// systemd-boot finds by itself and puts last. LoaderEntrySysFail is for a
// firmware that reports a failure of its own, which no kexec is, and is not read.
package bls
