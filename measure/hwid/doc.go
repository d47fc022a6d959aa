// Package hwid answers, for a machine, which of a UKI's .dtbauto and .efifw
// sections systemd-stub uses there, and what command line the firmware adds.
//
// The stub compares the first `compatible` string of a .dtbauto devicetree with
// that of the firmware's devicetree. Where the firmware has none, it looks for
// the machine in the section .hwids: by CHIDs, UUIDs made of SMBIOS strings
// (Microsoft, "Specifying Hardware IDs for a Computer"; systemd 262,
// src/boot/chid.c). Since the firmware says all this, a [Machine] is what is
// known of the firmware: read from a running system or from a hardware file.
// What is not known is never made up: an answer that depends on it is
// [ErrUnknown].
//
// The package is pure: it reads from an [io/fs.FS] and from bytes.
package hwid
