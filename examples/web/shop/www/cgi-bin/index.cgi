#!/bin/sh
visits=$(timeout 2 wget -q -O - "http://shop:$(cat /etc/database/password)@$DATABASE:8080/cgi-bin/visit")
printf 'Content-Type: text/plain\r\n\r\n'
echo "version $VERSION, pod $(hostname), visitor ${visits:-unknown}"
