<?php
/*
 * A backend that answers every hook with the header fields that it sees, as PHP names them.
 */

$seen = array();
foreach ($_SERVER as $name => $value) {
    if (strncmp($name, 'HTTP_', 5) === 0 || $name === 'CONTENT_LENGTH' || $name === 'CONTENT_TYPE') {
        $seen[$name] = $value;
    }
}
$answer = json_encode(array('seen' => $seen));
header('Content-Type: application/json');
header('Content-Length: ' . strlen($answer));
echo $answer;
