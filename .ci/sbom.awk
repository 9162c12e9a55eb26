# The bill of materials of the binary, CycloneDX 1.6 in JSON: what `cargo tree` says is compiled in, with the checksums
# of Cargo.lock. The same input gives the same octets: no time, no random number.
#
#   cargo tree --locked --edges normal --prefix depth --format '|{p}|{l}' | awk -f .ci/sbom.awk Cargo.lock -
#
# What is used to compile only (procedural macros) has the scope `excluded`. Ends with an error when it understood nothing, or
# when a crate of a registry has no checksum.

BEGIN { FS = "|" }

# Cargo.lock
FILENAME == "Cargo.lock" {
  if ($0 ~ /^name = /) { name = quoted($0) }
  else if ($0 ~ /^version = / && name != "") { locked = name "@" quoted($0) }
  else if ($0 ~ /^checksum = /) { checksum[locked] = quoted($0); name = "" }
  next
}

# cargo tree: depth|name vVERSION (where or what)|licences, with (*) where it was expanded before
{
  depth = $1 + 0
  split($2, word, " ")
  version = substr(word[2], 2)
  key = word[1] "@" version
  licence = $3
  sub(/ \(\*\)$/, "", licence)
  if (!(key in known)) {
    known[key] = 1
    order[++count] = key
    names[key] = word[1]
    versions[key] = version
    licences[key] = licence
    macro[key] = $2 ~ /\(proc-macro\)/
    if (!(key in checksum) && depth > 0) fail("no checksum for " key)
  }
  stack[depth] = key
  if (depth > 0 && !((stack[depth - 1], key) in edge)) {
    edge[stack[depth - 1], key] = 1
    uses[stack[depth - 1]] = uses[stack[depth - 1]] "," string(reference(key))
  }
}

END {
  if (failed) exit 1
  if (count < 2) fail("nothing was understood")
  root = order[1]
  printf "{\"bomFormat\":\"CycloneDX\",\"specVersion\":\"1.6\",\"version\":1,\"metadata\":{\"component\":%s},\n", component(root, "application")
  printf "\"components\":["
  for (i = 2; i <= count; i++) printf "%s\n%s", (i > 2 ? "," : ""), component(order[i], "library")
  printf "\n],\n\"dependencies\":["
  for (i = 1; i <= count; i++)
    printf "%s\n{\"ref\":%s,\"dependsOn\":[%s]}", (i > 1 ? "," : ""), string(reference(order[i])), substr(uses[order[i]], 2)
  printf "\n]}\n"
}

function component(key, type,    text) {
  text = "{\"type\":\"" type "\",\"bom-ref\":" string(reference(key)) ",\"name\":" string(names[key]) ",\"version\":" string(versions[key])
  if (macro[key]) text = text ",\"scope\":\"excluded\""
  if (key in checksum) text = text ",\"hashes\":[{\"alg\":\"SHA-256\",\"content\":" string(checksum[key]) "}]"
  if (licences[key] != "") {
    # an old way to write OR
    gsub(/ *\/ */, " OR ", licences[key])
    text = text ",\"licenses\":[{\"expression\":" string(licences[key]) "}]"
  }
  return text ",\"purl\":" string(reference(key)) "}"
}

function reference(key,    version) {
  version = versions[key]
  gsub(/[+]/, "%2B", version)
  return "pkg:cargo/" names[key] "@" version
}

function string(text) {
  gsub(/\\/, "\\\\", text)
  gsub(/"/, "\\\"", text)
  return "\"" text "\""
}

function quoted(line) {
  sub(/^[^"]*"/, "", line)
  sub(/".*$/, "", line)
  return line
}

function fail(why) {
  print "sbom: " why > "/dev/stderr"
  failed = 1
  exit 1
}
