# More processes than a job may have, which stay, and a fork bomb beside them: shells that cannot fork end, so a bomb alone may have
# burnt out at the kernel's bound before anybody looks. The first shell makes none of it itself, so it is still there when nobody
# can make another process.
for n in $(seq 100); do sleep 60 & done
(b() { b | b & }; b) &
wait
