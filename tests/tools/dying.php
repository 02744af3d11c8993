<?php
/*
 * A backend that is told of events and ends as the hook's field "end" says: well, with output that is no JSON, after
 * warnings, or by an error that PHP does not survive. Front controller for a web server; on the command line it reads
 * the hook from standard input. PHP 5.3 syntax throughout.
 */

error_reporting(E_ALL | 2048);
$body = file_get_contents(PHP_SAPI === 'cli' ? 'php://stdin' : 'php://input');
$hook = json_decode($body, true);
if (PHP_SAPI !== 'cli') {
    ini_set('display_errors', '1');
    ini_set('html_errors', empty($hook['html']) ? '0' : '1');
}
if (!empty($hook['status'])) {
    header('X-Status: set', true, (int) $hook['status']);
}
if (!class_exists('mysqli_sql_exception')) {
    class mysqli_sql_exception extends RuntimeException
    {
    }
}
if (!class_exists('PDOException')) {
    class PDOException extends RuntimeException
    {
    }
}
end_as($hook['end'], $body);

function end_as($end, $body)
{
    switch ($end) {
        case 'empty':
            return;
        case 'echo':
            echo $body;
            return;
        case 'quote':
            echo json_encode(array('note' => "\nFatal error: Uncaught PDOException: SQLSTATE[HY000]"));
            return;
        case 'list':
            echo json_encode(array("\nFatal error: Uncaught PDOException"));
            return;
        case 'warning':
            fopen('/nowhere/of/any/use', 'r');
            trigger_error("SQLSTATE[HY000] PDOException Stack trace:\n#0 {main}", E_USER_WARNING);
            echo 'OK';
            return;
        case 'notice':
            echo $nowhere;
            trigger_error('Uncaught words', E_USER_NOTICE);
            trigger_error('ereg() is deprecated', E_USER_DEPRECATED);
            echo $body;
            return;
        case 'quoting notice':
            echo $nowhere;
            echo json_encode(array('note' => "PHP Fatal error: Uncaught PDOException: SQLSTATE[HY000]"));
            return;
        case 'undefined':
            function_that_is_nowhere();
            return;
        case 'throw':
            throw new Exception('the disk is full');
        case 'silent':
            throw new Exception();
        case 'mysqli':
            throw new mysqli_sql_exception('Connection refused', 2002);
        case 'pdo':
            throw new PDOException('SQLSTATE[08006] [7] connection to server at "db" failed', 7);
        case 'error':
            trigger_error('the record could not be written', E_USER_ERROR);
            return;
        case 'memory':
            ini_set('memory_limit', '4M');
            str_repeat('x', 64 * 1024 * 1024);
            return;
        case 'parse':
            // Caught by nobody since PHP 7; before, eval() only printed it.
            eval('this is no PHP');
            return;
        case 'middle':
            echo '{"a": 1, "b": ';
            function_that_is_nowhere();
            return;
        case 'late':
            register_shutdown_function('echo_body');
            function_that_is_nowhere();
            return;
        case 'handler':
            set_exception_handler('print_exception');
            throw new mysqli_sql_exception('Connection refused', 2002);
        case 'message':
            set_exception_handler('print_message');
            throw new PDOException('SQLSTATE[HY000] [2002] Connection refused');
        case 'minified':
            ob_start('minified');
            function_that_is_nowhere();
            return;
    }
}

function echo_body()
{
    echo $GLOBALS['body'];
}

function print_exception($exception)
{
    echo $exception;
}

function print_message($exception)
{
    echo 'Connection failed: ' . $exception->getMessage();
}

function minified($text)
{
    return preg_replace('/\s+/', ' ', $text);
}
