#!/bin/sh
# Makes a base image from Debian's busybox-static and builds the application's images upon it,
# without a network. Options are passed on to `navarch image`, as in: images.sh -p other
set -eu
here=$(cd "$(dirname "$0")" && pwd)
navarch=${NAVARCH:-navarch}
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT

# Links to one static executable are a whole root file system.
chmod 755 "$root"
mkdir "$root/bin" "$root/etc" "$root/tmp" "$root/www"
chmod 1777 "$root/tmp"
cp "$(command -v busybox)" "$root/bin/busybox"
for applet in $(busybox --list); do
    [ "$applet" = busybox ] || ln -s busybox "$root/bin/$applet"
done
echo 'root:x:0:0:root:/:/bin/sh' > "$root/etc/passwd"
archive="$root/base.tar"
tar -C "$root" -cf "$archive" bin etc tmp www

$navarch image load "$@" "$archive" --name navarch.local/web-base:1
$navarch image build "$@" -t navarch.local/web-database:1 "$here/database"
for version in 1 2; do
    $navarch image build "$@" -t "navarch.local/web-shop:$version" \
        --build-arg "VERSION=$version" "$here/shop"
done
