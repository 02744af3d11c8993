<?php
/*
 * A backend for the media server's hooks, as one would have been written for Apache 2.2 and PHP 5.3:
 * it allows a hook by returning the body that it received, rejects with 403, and fails on demand in the
 * ways that old PHP fails. The called number (the hook's "callee") selects the answer; see README.md.
 *
 * Front controller for any web server, and router script of "php -S". PHP 5.3 syntax throughout, and no
 * warnings on PHP 8: please keep it so.
 */

/* A callee selects an answer by beginning with one of these words; longer ones come before shorter ones. */
define('BEHAVIOURS', 'ARRAY|BOM|CLOSE|EMPTY|FATALSHOWN|FATAL|HTML|HTTP10'
    . '|NOTICEAFTER|NOTICELENGTH|NOTICE|REDIRECT|REFUSE|SLOW|STACKTRACE');
define('LONGEST_SLEEP', 60.0);

class NumberNotFoundException extends Exception
{
}

ini_set('display_errors', '0');
error_reporting(E_ALL);
main();

function main()
{
    $method = isset($_SERVER['REQUEST_METHOD']) ? $_SERVER['REQUEST_METHOD'] : '';
    if ($method === 'GET' || $method === 'HEAD') {
        answer(200, 'text/plain', "ok\n");
        return;
    }
    if ($method !== 'POST') {
        header('Allow: GET, HEAD, POST');
        answer(405, 'text/plain', "A hook is sent with POST.\n");
        return;
    }

    $body = file_get_contents('php://input');
    log_hook($body);
    $hook = json_decode($body, true);
    if (!is_array($hook)) {
        answer(400, 'text/plain', "The body is not a JSON object.\n");
        return;
    }
    $callee = isset($hook['callee']) && is_string($hook['callee']) ? $hook['callee'] : '';
    if (preg_match('/^(' . BEHAVIOURS . ')(.*)$/s', $callee, $match)) {
        behave($match[1], $match[2], $callee, $body);
    } else {
        accept($body);
    }
}

function behave($behaviour, $rest, $callee, $body)
{
    switch ($behaviour) {
        case 'REFUSE':
            header('Content-Length: 0', true, 403);
            break;

        case 'NOTICE':
            header('Content-Type: application/json');
            show_notice($callee);
            echo $body;
            break;
        case 'NOTICEAFTER':
            header('Content-Type: application/json');
            echo $body;
            show_notice($callee);
            break;
        case 'NOTICELENGTH':
            /* The length of the JSON alone: with the notice, the answer is longer. */
            header('Content-Type: application/json');
            header('Content-Length: ' . strlen($body));
            show_notice($callee);
            send_what_there_is();
            echo $body;
            break;

        case 'FATAL':
            header('Content-Type: application/json');
            look_up_number_in_the_old_directory($callee);
            break;
        case 'FATALSHOWN':
            show_errors();
            header('Content-Type: application/json');
            look_up_number_in_the_old_directory($callee);
            break;
        case 'STACKTRACE':
            try {
                find_number($callee);
            } catch (NumberNotFoundException $exception) {
                answer(500, 'text/html', "<pre>\n" . htmlspecialchars((string) $exception) . "\n</pre>\n");
            }
            break;

        case 'EMPTY':
            answer(200, 'application/json', '');
            break;
        case 'ARRAY':
            answer(200, 'application/json', json_encode(array()));
            break;
        case 'BOM':
            /* What a file saved with a byte-order mark does to every answer of the script. */
            header('Content-Type: application/json');
            echo "\xEF\xBB\xBF" . $body;
            break;
        case 'HTML':
            answer(200, 'text/html', login_page());
            break;
        case 'REDIRECT':
            header('Location: /login.php');
            answer(302, 'text/html', login_page());
            break;

        case 'SLOW':
            usleep((int) (1000000 * min(LONGEST_SLEEP, (float) $rest)));
            accept($body);
            break;
        case 'CLOSE':
            header('Connection: close');
            accept($body);
            break;
        case 'HTTP10':
            send_without_length($body);
            break;
    }
}

function accept($body)
{
    answer(200, 'application/json', $body);
}

function answer($status, $type, $body)
{
    header('Content-Type: ' . $type, true, $status);
    header('Content-Length: ' . strlen($body));
    echo $body;
}

/* An answer that ends with the connection: HTTP/1.0 and no Content-Length. */
function send_without_length($body)
{
    header('HTTP/1.0 200 OK');
    header('Content-Type: application/json');
    if (function_exists('apache_setenv')) {
        apache_setenv('nokeepalive', '1');
    }
    $half = (int) (strlen($body) / 2);
    echo substr($body, 0, $half);
    send_what_there_is();
    echo substr($body, $half);
}

/* Apache corrects the length once it has seen the whole body, so the head must be sent before. */
function send_what_there_is()
{
    while (ob_get_level() > 0) {
        ob_end_flush();
    }
    flush();
}

function show_errors()
{
    ini_set('display_errors', '1');
    ini_set('html_errors', '1');
}

/* A real notice (since PHP 8: a warning); it quotes the called number, unescaped. */
function show_notice($callee)
{
    show_errors();
    $directory = array();
    $extension = $directory[$callee];
    return $extension;
}

function find_number($callee)
{
    throw new NumberNotFoundException('No such number: ' . $callee);
}

function login_page()
{
    return "<!DOCTYPE html>\n<html><head><title>Log in</title></head>\n"
        . "<body><form method=\"post\" action=\"/login.php\">\n"
        . "<input name=\"user\"><input name=\"password\" type=\"password\"><input type=\"submit\">\n"
        . "</form></body></html>\n";
}

/* One JSON line per hook in the file that HOOK_LOG names (environment, or hook_log in php.ini); never the body. */
function log_hook($body)
{
    $file = getenv('HOOK_LOG');
    if (!$file) {
        $file = get_cfg_var('hook_log');
    }
    if (!$file) {
        return;
    }
    $path = preg_replace('/\?.*$/s', '', isset($_SERVER['REQUEST_URI']) ? $_SERVER['REQUEST_URI'] : '');
    $line = json_encode(array(
        'time' => microtime(true),
        'method' => printable(substr(strrchr('/' . $path, '/'), 1)),
        'sha1' => sha1($body),
        'length' => strlen($body),
        'request_id' => isset($_SERVER['HTTP_X_REQUEST_ID']) ? printable($_SERVER['HTTP_X_REQUEST_ID']) : null,
        'authorization' => has_authorization(),
    ));
    file_put_contents($file, $line . "\n", FILE_APPEND | LOCK_EX);
}

/* Apache does not put Authorization into $_SERVER, for any scheme. */
function has_authorization()
{
    if (isset($_SERVER['HTTP_AUTHORIZATION']) || isset($_SERVER['PHP_AUTH_USER'])) {
        return true;
    }
    if (!function_exists('apache_request_headers')) {
        return false;
    }
    return array_key_exists('authorization', array_change_key_case(apache_request_headers(), CASE_LOWER));
}

function printable($text)
{
    return substr(preg_replace('/[^\x20-\x7E]/', '?', (string) $text), 0, 200);
}
