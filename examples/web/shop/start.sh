#!/bin/sh
# Serves the shop. Without its database it gives up: trying again is the cluster's business.
file=/etc/database/password
if ! [ -s $file ]; then
    echo "shop: there is no password in $file"
    exit 1
fi
if ! timeout 2 wget -q -O /dev/null "http://shop:$(cat $file)@$DATABASE:8080/cgi-bin/visit"; then
    echo "shop: the database at $DATABASE does not answer"
    exit 1
fi
httpd -f -p 8080 -h /www &
trap 'kill $!; exit 0' TERM
echo "shop: version $VERSION is open"
wait
