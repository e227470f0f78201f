#!/bin/sh
# A database of one number, behind a password that comes from a file.
echo "/:shop:$(cat /etc/database/password)" > /etc/httpd.conf
httpd -f -p 8080 -h /www -c /etc/httpd.conf &
trap 'kill $!; exit 0' TERM
echo "database: ready"
wait
